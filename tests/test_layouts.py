"""Each layout that people have is understood alike in a folder and in a zip, and what it was taken for is said."""

import io
import sys
import zipfile

import pytest

from frostline.data.archive import list_images
from frostline.data.folder_names import label_in, part_of
from frostline.data.layout import Reading, understand
from frostline.runtime.errors import FrostlineError
from frostline.sources.folder import pack_folder

CATS_AND_DOGS = ("cats", "dogs")
POOLED = "classes cats and dogs, pooled from"


def within(*folders, classes=CATS_AND_DOGS):
    """Class folders in each of `folders`, with their labels."""
    return {f"{folder}/{name}/#.jpg": name for folder in folders for name in classes}


def or_classes(names):
    return f"; if {names} are the classes: preprocess.top_folders=classes"


# Files, # being a number, with their class; None: unlabelled, "": outside of the layout. And what is said.
LAYOUTS: dict[str, tuple[dict[str, str | None], str]] = {
    "one folder per class": (
        {"cats/#.jpg": "cats", "dogs/#.jpg": "dogs", "cover#.jpg": ""},
        "classes cats and dogs, one folder each",
    ),
    "in folders around it": (within("a/b/c"), "classes cats and dogs, one folder each"),
    "in folders of one name": (within("dataset/dataset"), "classes cats and dogs, one folder each"),
    "many classes": (
        {f"class{number}/#.jpg": f"class{number}" for number in range(9)},
        "classes class0, class1, class2, class3, class4, class5, class6 and 2 more, one folder each",
    ),
    "splits": (within("train", "val"), "classes cats and dogs, pooled from train and val"),
    "splits in a folder": (within("images/train", "images/test"), "classes cats and dogs, pooled from train and test"),
    "the same folders in two of which one is called as a split": (
        within("control", "test", classes=("plate1", "plate2")),
        "classes plate1 and plate2, pooled from test and control" + or_classes("control and test"),
    ),
    "a training set only": (within("images/train"), "classes cats and dogs, one folder each"),
    "capitals": (
        within("Train", "Validation", "Test"),
        "classes cats and dogs, pooled from Train, Validation and Test",
    ),
    "folders called sets": (
        within("train_set", "test_set"),
        "classes cats and dogs, pooled from train_set and test_set",
    ),
    "each set in a folder of its name": (
        within("training_set/training_set", "test_set/test_set"),
        "classes cats and dogs, pooled from training_set and test_set",
    ),
    "a prefix": (
        within("seg_train/seg_train", "seg_test/seg_test") | {"seg_pred/seg_pred/#.jpg": None},
        "classes cats and dogs, pooled from seg_train and seg_test; seg_pred unlabelled",
    ),
    "splits of any name": (within("north", "south"), f"{POOLED} north and south" + or_classes("north and south")),
    "folds": (
        within(*(f"fold{number}" for number in range(5))),
        "classes cats and dogs, pooled from fold0, fold1, fold2, fold3 and fold4",
    ),
    "splits in folds": (
        within("fold1/train", "fold1/val", "fold2/train", "fold2/val"),
        "classes cats and dogs, pooled from fold1/train, fold2/train, fold1/val and fold2/val",
    ),
    "a class that a split lacks": (
        within("train", "val") | {"train/birds/#.jpg": "birds"},
        "classes birds, cats and dogs, pooled from train and val",
    ),
    "a split with one class": (
        within("train") | {"val/cats/#.jpg": "cats"},
        "classes cats and dogs, pooled from train and val",
    ),
    "a split with one class, in subfolders": (
        within("train") | {"val/cats/holiday/#.jpg": "cats"},
        "classes cats and dogs, pooled from train and val",
    ),
    "classes that only one split has": (
        within("train", "val") | {"train/birds/#.jpg": "birds", "val/owls/#.jpg": "owls"},
        "classes birds, cats, dogs and owls, pooled from train and val",
    ),
    "unlabelled test set": (within("train") | {"test/#.jpg": None}, "classes cats and dogs, in train; test unlabelled"),
    "unlabelled test set in a folder": (
        within("train") | {"test/unknown/#.jpg": None},
        "classes cats and dogs, in train; test unlabelled",
    ),
    "images beside the classes of a split": (
        within("train", "test") | {"train/cover#.jpg": ""},
        "classes cats and dogs, pooled from train and test",
    ),
    "Kaggle, unpacked": (
        {"train/cat.#.jpg": "cat", "train/dog.#.jpg": "dog", "test1/#.jpg": None},
        "classes cat and dog, by file names, in train; test1 unlabelled",
    ),
    "Kaggle, unpacked, in folders": (
        {"train/images/cat.#.jpg": "cat", "train/images/dog.#.jpg": "dog", "test/images/#.jpg": None},
        "classes cat and dog, by file names, in train; test unlabelled",
    ),
    "splits by file names": (
        {f"{split}/{name}_#.jpg": name for split in ("train", "val") for name in CATS_AND_DOGS},
        "classes cats and dogs, by file names, pooled from train and val",
    ),
    "file names, a test set beside": (
        {"cat.#.jpg": "cat", "dog.#.jpg": "dog", "test/#.jpg": None},
        "classes cat and dog, by file names, in the folder itself; test unlabelled",
    ),
    "file names": ({"cat.#.jpg": "cat", "dog.#.jpg": "dog"}, "classes cat and dog, by file names"),
    "file names in a folder": (
        {"pets/cat (#).jpg": "cat", "pets/dog (#).jpg": "dog"},
        "classes cat and dog, by file names, in pets",
    ),
    "subfolders of a class": (
        {"cats/#.jpg": "cats", "cats/holiday/#.jpg": "cats", "dogs/#.jpg": "dogs"},
        "classes cats and dogs, one folder each",
    ),
    "images beside the deep subfolder of a class": (
        {"cats/#.jpg": "cats", "cats/2024/may/#.jpg": "cats", "dogs/#.jpg": "dogs"},
        "classes cats and dogs, one folder each",
    ),
    "the same subfolder in each class": (
        {"cats/images/#.jpg": "cats", "dogs/images/#.jpg": "dogs"},
        "classes cats and dogs, one folder each",
    ),
    "other subfolders in each class": (
        {f"{path}/#.jpg": path[:4] for path in ("cats/manx", "cats/persian", "dogs/poodle", "dogs/pug")},
        "classes cats and dogs, one folder each",
    ),
    "subfolders of which few are the same": (
        {f"{path}/#.jpg": path[:4] for path in ("cats/a", "cats/b", "cats/other", "dogs/c", "dogs/d", "dogs/other")},
        "classes cats and dogs, one folder each",
    ),
    "splits within the classes": (
        {f"{name}/{split}/#.jpg": name for name in CATS_AND_DOGS for split in ("train", "test")},
        "classes cats and dogs, pooled from train and test",
    ),
    "a class called as a split": (
        {"bus/#.jpg": "bus", "car/#.jpg": "car", "train/#.jpg": "train"},
        "classes bus, car and train, one folder each",
    ),
    "cameras' names": (
        {"cats/IMG_#.jpg": "cats", "cats/DSC_#.jpg": "cats", "dogs/IMG_#.jpg": "dogs", "dogs/PXL_#.jpg": "dogs"},
        "classes cats and dogs, one folder each",
    ),
    "browsers' and messengers' names": (
        {f"{name}/{pattern}": name for name in CATS_AND_DOGS for pattern in ("images (#).jpg", "FB_IMG_#.jpg")},
        "classes cats and dogs, one folder each",
    ),
    "parts of a download, unpacked": (
        {
            "pictures-20240115T123456Z-001/pictures/cats/#.jpg": "cats",
            "pictures-20240115T123456Z-001/pictures/dogs/#.jpg": "dogs",
            "pictures-20240115T123456Z-002/pictures/dogs/1#.jpg": "dogs",
            "pictures-20240115T123456Z-002/pictures/fish/#.jpg": "fish",
        },
        "classes cats, dogs and fish, one folder each",
    ),
    "a download of each class": (
        {
            "cats-20240115T123456Z-1-001/cats/#.jpg": "cats",
            "cats-20240115T123456Z-1-002/cats/1#.jpg": "cats",
            "dogs-20240115T123501Z-1-001/dogs/#.jpg": "dogs",
        },
        "classes cats and dogs, one folder each",
    ),
    "a folder beside one of its name": (
        {
            "pets/cats/#.jpg": "cats",
            "pets/dogs/#.jpg": "dogs",
            "pets (1)/dogs/1#.jpg": "dogs",
            "pets (1)/fish/#.jpg": "fish",
        },
        "classes cats, dogs and fish, one folder each",
    ),
    "classes called with a number in brackets": (
        {"egg (1)/#.jpg": "egg (1)", "egg (2)/#.jpg": "egg (2)"},
        "classes egg (1) and egg (2), one folder each",
    ),
    "names of synsets": (
        {"n01/n01_#.JPEG": "n01", "n02/n02_#.JPEG": "n02"},
        "classes n01 and n02, one folder each",
    ),
    "domains": (within("amazon/images", "dslr/images"), f"{POOLED} amazon and dslr" + or_classes("amazon and dslr")),
    "masks in folders beside the images of each class": (
        {f"{name}/images/{name}-#.png": name for name in CATS_AND_DOGS} | {"cats/masks/cats-#.png": ""},
        "classes cats and dogs, one folder each",
    ),
    "masks beside the images": (
        {"cats/cat (#).png": "cats", "cats/cat (#)_mask.png": "", "dogs/dog (#).png": "dogs"},
        "classes cats and dogs, one folder each",
    ),
    "masks beside splits": (
        within("train", "test") | {"ground_truth/cats/#_mask.png": ""},
        "classes cats and dogs, pooled from train and test",
    ),
    "masks beside splits of several kinds": (
        within("a/train", "a/test", "b/train", "b/test")
        | dict.fromkeys(("a/ground_truth/cats/#_mask.png", "b/ground_truth/cats/#_mask.png"), ""),
        "classes cats and dogs, pooled from a/train, b/train, a/test and b/test" + or_classes("a and b"),
    ),
    "marks beside a folder of images": (
        {"images/Pug_#.jpg": "Pug", "images/beagle_#.jpg": "beagle", "annotations/trimaps/Pug_#.png": ""},
        "classes Pug and beagle, by file names, in images",
    ),
    "a class called mask": (
        {"mask/#.jpg": "mask", "no_mask/#.jpg": "no_mask"},
        "classes mask and no_mask, one folder each",
    ),
    "classes told by masks, with a test set": (
        {"train/mask/#.jpg": "mask", "train/no_mask/#.jpg": "no_mask", "test/#.jpg": None},
        "classes mask and no_mask, in train; test unlabelled",
    ),
    "a folder of images in each class and split": (
        {f"train/{name}/images/#.jpg": name for name in CATS_AND_DOGS}
        | dict.fromkeys(("val/images/#.jpg", "test/images/#.jpg"), None),
        "classes cats and dogs, in train; val and test unlabelled",
    ),
    "a folder in the test set and the training set": (
        within("letters_train/letters_train") | {"letters_test/letters_test/A_test#.jpg": None},
        "classes cats and dogs, in letters_train; letters_test unlabelled",
    ),
    "two cameras in both classes": (
        {f"{name}/{camera}_#.jpg": name for name in CATS_AND_DOGS for camera in ("IMG", "DSC")},
        "classes cats and dogs, one folder each",
    ),
    "numbers as classes": (within("train", "test", classes=("0", "1")), "classes 0 and 1, pooled from train and test"),
    "years as splits": (within("2023", "2024"), f"{POOLED} 2023 and 2024" + or_classes("2023 and 2024")),
    "a class spelt in two ways side by side": (
        {"ice cream/#.jpg": "ice cream", "ice_cream/#.jpg": "ice_cream"},
        "classes ice cream and ice_cream, one folder each",
    ),
    "a copy of the tree in it": (
        within("train", "val", "test") | dict.fromkeys(within("all/train", "all/val", "all/test"), ""),
        "classes cats and dogs, pooled from train, val and test",
    ),
    "a copy of the tree in it, in a folder": (
        within("x/train", "x/val") | dict.fromkeys(within("x/x/train", "x/x/val"), ""),
        "classes cats and dogs, pooled from train and val",
    ),
    "a copy of the classes beside them": (
        {"no/#.jpg": "no", "yes/#.jpg": "yes", "all/no/#.jpg": "", "all/yes/#.jpg": ""},
        "classes no and yes, one folder each",
    ),
    "two classes that differ by case": (
        {"A/#.jpg": "A", "a/#.jpg": "a"},
        "classes A and a, one folder each",
    ),
    "two forms of one name": (
        {"caf\u00e9/1#.jpg": "caf\u00e9", "cafe\u0301/2#.jpg": "caf\u00e9", "bar/#.jpg": "bar"},
        "classes bar and caf\u00e9, one folder each",
    ),
}  # fmt: skip

NOTES = {
    "parts of a download, unpacked": [
        "pictures-20240115T123456Z-001 and pictures-20240115T123456Z-002 are read as the parts of one folder; if they "
        "are not: preprocess.top_folders=classes"
    ],
    "a download of each class": [
        "cats-20240115T123456Z-1-001 and cats-20240115T123456Z-1-002 are read as the parts of one folder; if they are "
        "not: preprocess.top_folders=classes"
    ],
    "a folder beside one of its name": [
        "pets and pets (1) are read as the parts of one folder; if they are not: preprocess.top_folders=classes"
    ],
    "masks in folders beside the images of each class": [
        "left out, masks of other images: 3 images (cats/masks/cats-0.png, cats/masks/cats-1.png, "
        "cats/masks/cats-2.png)"
    ],
    "masks beside the images": [
        "left out, masks of other images: 3 images (cats/cat (0)_mask.png, cats/cat (1)_mask.png, "
        "cats/cat (2)_mask.png)"
    ],
    "masks beside splits": [
        "left out, masks of other images: 3 images (ground_truth/cats/0_mask.png, ground_truth/cats/1_mask.png, "
        "ground_truth/cats/2_mask.png)"
    ],
    "masks beside splits of several kinds": [
        "left out, masks of other images: 6 images (a/ground_truth/cats/0_mask.png, "
        "a/ground_truth/cats/1_mask.png, a/ground_truth/cats/2_mask.png …)"
    ],
    "marks beside a folder of images": [
        "left out, masks of other images: 3 images (annotations/trimaps/Pug_0.png, annotations/trimaps/Pug_1.png, "
        "annotations/trimaps/Pug_2.png)"
    ],
    "a class spelt in two ways side by side": [
        "the classes ice cream and ice_cream differ by case, spaces, dashes or the width of letters only: taken as two"
    ],
    "a copy of the tree in it": ["all repeats the folders beside it: 18 copies in it are left out"],
    "a copy of the tree in it, in a folder": ["x repeats the folders beside it: 12 copies in it are left out"],
    "a copy of the classes beside them": ["all repeats the folders beside it: 6 copies in it are left out"],
    "one folder per class": ["left out, in none of these: 3 images (cover0.jpg, cover1.jpg, cover2.jpg)"],
    "images beside the classes of a split": [
        "left out, in none of these: 3 images (train/cover0.jpg, train/cover1.jpg, train/cover2.jpg)"
    ],
    "two classes that differ by case": ["the classes A and a differ by case only: taken as two"],
}


def numbered(pattern):
    return [pattern.replace("#", str(number)) for number in range(3)]


def content(name):
    """The same for a file in another place."""
    return "/".join(name.split("/")[-2:] if name.startswith("all/no") else name.split("/")[-3:]).encode()


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, name.split("/")[-1])
    return path


def packed(path, names):
    folder = path.with_suffix("")
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name.split("/")[-1])
    pack_folder(folder, path)
    return path


def listed(path, reading=None):
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return list_images(path, scratch, reading or Reading())


@pytest.mark.parametrize("make", [zipped, packed])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name, make, tmp_path):
    expected, understood = LAYOUTS[name]
    clutter = [
        "Thumbs.db",
        "__MACOSX/cats/._1.jpg",
        ".ipynb_checkpoints/1.jpg",
        "@eaDir/cats/1.jpg",
        "thumbnails/1.jpg",
        "1.jpg:Zone.Identifier",
        "readme.txt",
    ]
    files = [file for pattern in expected for file in numbered(pattern)]
    listing = listed(make(tmp_path / "a.zip", files + clutter))
    labels = {file: label for pattern, label in expected.items() for file in numbered(pattern) if label != ""}
    labels = {file.replace("e\u0301", "\u00e9"): label for file, label in labels.items()}
    assert {member.name: member.label for member in listing.members} == labels
    assert not any(member.refusal for member in listing.members)
    assert listing.understood == understood
    assert listing.notes == NOTES.get(name, [])
    assert listing.ignored == len(files) - len(labels) + (make is zipped)  # readme.txt is not packed


def test_a_copy_of_the_tree_with_images_of_its_own(tmp_path):
    names = [file for pattern in within("train", "val") for file in numbered(pattern)]
    own = ["all/train/cats/7.jpg", "all/train/cats/0.jpg", "all/val/dogs/0.jpg"]
    listing = listed(zipped(tmp_path / "a.zip", names + own))
    assert {member.name for member in listing.members} == {*names, "all/train/cats/7.jpg"}
    assert listing.notes == [
        "all repeats the folders beside it: 2 copies in it are left out, 1 more are added to theirs"
    ]


def calls_to_understand(names):
    calls = 0

    def count(frame, event, arg):
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        understand(names, range(len(names)), "auto", "pets")
    finally:
        sys.setprofile(None)
    return calls


@pytest.mark.parametrize("pattern", ["#/1.jpg", "#/x/1.jpg", "train/#/1.jpg", "#/x/1.jpg #/y/1.jpg"])
def test_twice_the_classes_or_splits_are_twice_the_work(pattern):
    def names(count):
        return [tuple(file.replace("#", f"c{n}").split("/")) for n in range(count) for file in pattern.split()]

    assert calls_to_understand(names(600)) < 2.5 * calls_to_understand(names(300))


AMBIGUOUS = {
    "class folders or splits": (
        {f"{top}{sub}/#.jpg": (top[0], sub[1:] or "") for top in "ab" for sub in ("", "/x", "/y")},
        "the folders a and b may be the classes, or splits with the classes x and y",
    ),
    "classes and one without": (
        {"p/cats/#.jpg": ("p", "cats"), "p/dogs/#.jpg": ("p", "dogs"), "other/#.jpg": ("other", None)},
        "the folders other and p may be the classes, or splits with the classes cats and dogs",
    ),
    "half of the subfolders the same": (
        {f"{top}/{sub}/#.jpg": (top, sub) for top, subs in {"p": "xyz", "q": "xyw"}.items() for sub in subs},
        "the folders p and q may be the classes, or splits with the classes w, x, y and z",
    ),
    "years in each class": (
        {f"{top}/{year}/#.jpg": (top, year) for top in CATS_AND_DOGS for year in ("2023", "2024")},
        "the folders cats and dogs may be the classes, or splits with the classes 2023 and 2024",
    ),
    "years with few classes in common": (
        {f"{top}/{sub}/#.jpg": (top, sub) for top, subs in {"2023": "xy", "2024": "yz"}.items() for sub in subs},
        "the folders 2023 and 2024 may be the classes, or splits with the classes x, y and z",
    ),
    "numbered folders with few classes in common": (
        {f"{top}/{sub}/#.jpg": (top, sub) for top, subs in {"pets": "xy", "pets 2": "yz"}.items() for sub in subs},
        "the folders pets and pets 2 may be the classes, or splits with the classes x, y and z",
    ),
    "file names": (
        {f"{top}/{name}.#.jpg": (top, name) for top in "ab" for name in CATS_AND_DOGS},
        "the folders a and b may be the classes, or splits with the classes cats and dogs",
    ),
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_asked_for(name, tmp_path):
    expected, words = AMBIGUOUS[name]
    path = zipped(tmp_path / "a.zip", [file for pattern in expected for file in numbered(pattern)])
    with pytest.raises(FrostlineError) as caught:
        listed(path, Reading(shown_as="../pets"))
    assert str(caught.value).startswith(f"../pets: {words}.\n")
    assert "preprocess.top_folders=classes, or preprocess.top_folders=splits" in str(caught.value)
    for position, top_folders in enumerate(("classes", "splits")):
        found = {member.name: member.label for member in listed(path, Reading(top_folders=top_folders)).members}
        wanted = {file: labels[position] for pattern, labels in expected.items() for file in numbered(pattern)}
        assert found == {file: label for file, label in wanted.items() if label != ""}


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ["cats/#.jpg", "dogs/#.jpg", "test/#.jpg"],
            "test would be a class, but is called as a split, a day or mere im",
        ),
        (["part_1/#.jpg", "part_2/#.jpg"], "part_1 and part_2 would be classes, but are called as"),
        (["images_001/images/#.png", "images_002/images/#.png"], "images_001 and images_002 would be classes"),
        (["2024-01-05/#.jpg", "2024-01-06/#.jpg"], "2024-01-05 and 2024-01-06 would be classes"),
        (
            ["Training/TS_a/#.jpg", "Training/TS_b/#.jpg", "Validation/VS_a/#.jpg", "Validation/VS_b/#.jpg"],
            "Training has the classes TS_a and TS_b, and none of the other splits' VS_a and VS_b",
        ),
    ],
)
def test_what_is_hardly_meant_is_asked_for(patterns, words, tmp_path):
    path = zipped(tmp_path / "a.zip", [file for pattern in patterns for file in numbered(pattern)])
    with pytest.raises(FrostlineError) as caught:
        listed(path)
    assert words in str(caught.value)
    told = str(caught.value).partition("preprocess.top_folders=")[2].rstrip(".")
    labels = {member.name: member.label for member in listed(path, Reading(top_folders=told)).members}
    assert len(labels) == 3 * len(patterns)
    assert all(label in name.split("/")[:2] for name, label in labels.items())


@pytest.mark.parametrize(
    ("second", "told"),
    [
        (("dogs", "fish"), "Say which: preprocess.top_folders=classes, or"),
        (("fish", "owls"), "if it is so: preprocess.top_folders=classes; if they are parts with classes in them:"),
    ],
)
def test_parts_that_are_hardly_classes_may_be_splits(second, told, tmp_path):
    places = {"pets-part1": CATS_AND_DOGS, "pets-part2": second}
    path = zipped(tmp_path / "a.zip", [f"{part}/{name}/1.jpg" for part in places for name in places[part]])
    with pytest.raises(FrostlineError) as raised:
        listed(path)
    assert f"{told} preprocess.top_folders=splits." in str(raised.value)
    found = listed(path, Reading(top_folders="splits")).members
    assert {member.label for member in found} == {*CATS_AND_DOGS, *second}


def test_zips_that_are_parts_of_a_download_are_one_data_set(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for part, classes in (("001", CATS_AND_DOGS), ("002", ("dogs", "fish"))):
            inner = zipped(tmp_path / "inner.zip", [f"pictures/{name}/{part}.jpg" for name in classes])
            archive.writestr(f"pictures-20240115T123456Z-{part}.zip", inner.read_bytes())
    listing = listed(tmp_path / "a.zip")
    assert sorted((member.label, member.split) for member in listing.members) == [
        ("cats", ""), ("dogs", ""), ("dogs", ""), ("fish", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "words"),
    [
        (
            ["cats/train/#.jpg", "cats/val/#.jpg", "dogs/#.jpg"],
            ": images in no split have the class dogs, and none of the other splits' cats.",
        ),
        (["Cats/train/#.jpg", "cats/#.jpg"], "Cats (in train) and cats (in no split) differ by case only"),
        (["#.jpg"], "no labelled images found"),
        (
            ["train/#.jpg", "test/#.jpg"],
            "found: test and train hold no class folders (if they are the classes: preprocess.top_fol",
        ),
        (
            ["cat.#.jpg", "dog.#.jpg", "cover.jpg"],
            "the class is in the file names, as it seems, but not in 'cover.jpg'",
        ),
        (["train/cat.#.jpg", "train/dog.#.jpg", "val/cat.#.jpg", "val/x.jpg"], "but not in 'x.jpg'"),
        (
            ["train/Cat/#.jpg", "train/Dog/#.jpg", "val/cat/#.jpg", "val/dog/#.jpg"],
            "the classes Cat (in train) and cat (in val) differ by case only",
        ),
        (
            ["train/ice cream/#.jpg", "train/tea/#.jpg", "val/ice_cream/#.jpg", "val/tea/#.jpg"],
            "the classes ice cream (in train) and ice_cream (in val) differ by case, spaces, dashes or the width",
        ),
        (["P100000#.jpg", "SAM_000#.jpg"], "no labelled images found"),
        (["IMG_#.jpg", "DSC_#.jpg", "WhatsApp Image 2024-01-05 at 10.00.0#.jpeg"], "no labelled images found"),
        (
            ["all/train/good/#.jpg", "all/test/good/#.jpg", "large/good/#.jpg", "large/bad/#.jpg"],
            "all holds splits with folders in them, and large beside it does not",
        ),
    ],
)
def test_what_is_no_layout(patterns, words, tmp_path):
    with pytest.raises(FrostlineError) as caught:
        listed(zipped(tmp_path / "a.zip", [file for pattern in patterns for file in dict.fromkeys(numbered(pattern))]))
    assert words in str(caught.value)
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("cat.0.jpg", "cat"), ("cat_0.jpg", "cat"), ("cat-0.jpg", "cat"), ("cat 0.jpg", "cat"), ("cat0.jpg", "cat"),
        ("cat (1).jpg", "cat"), ("cat(1).jpg", "cat"), ("cat.0 (1).jpg", "cat"), ("cat.0", "cat"), ("cat_0.JPG", "cat"),
        ("golden retriever_12.png", "golden retriever"), ("class1_001.jpg", "class1"), ("고양이.3.jpg", "고양이"),
        ("1.jpg", None), ("0012.jpg", None), ("2024-01-05.jpg", None), ("cover.jpg", None), ("1_cat.jpg", None),
        ("IMG_0001.jpg", None), ("DSCN0001.jpg", None), ("_MG_1.jpg", None), ("IMG-20240101-WA0001.jpg", None),
        ("images (1).jpg", None), ("download (1).jpg", None), ("unnamed (2).png", None), ("FB_IMG_1.jpg", None),
        ("received_123.jpeg", None), ("Snapchat-123.jpg", None), ("Screenshot_1.png", None), ("KakaoTalk_1.jpg", None),
        ("P1000001.jpg", None), ("SAM_0001.JPG", None), ("SAM_0001 (1).JPG", None), ("사진 1.jpg", None),
        ("p_1.jpg", "p"), ("P100.jpg", "P"), ("sam_1.jpg", "sam"), ("downloader_1.jpg", "downloader"),
        ("cat_20240105_1.jpg", None), ("image_1.jpg", None), ("imgur_1.jpg", "imgur"), ("cat 1999 2.jpg", "cat 1999"),
    ],
)  # fmt: skip
def test_the_class_in_a_file_name(name, label):
    assert label_in(name) == label


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Training", "train"), ("train_set", "train"), ("TrainSet", "train"),
        ("trainset2", "train"),
        ("asl_alphabet_train", "train"), ("fold0/train", "train"), ("val", "validation"), ("valid", "validation"),
        ("Validation data", "validation"), ("dev", "validation"), ("test1", "test"), ("TEST", "test"),
        ("test_stg1", "test"), ("test-images", "test"), ("holdout", "test"), ("fold0", None), ("cats", None),
        ("contest", None), ("trains", None), ("", None),
    ],
)  # fmt: skip
def test_which_split_a_folder_is_called_like(name, part):
    assert part_of(name) == part


# Names in a zip


def as_written(names, encoding):
    """A zip of `names` as tools write it that do not say the encoding."""
    buffer = io.BytesIO()
    places = [f"{number:03}".ljust(len(name.encode(encoding)), "x") for number, name in enumerate(names)]
    with zipfile.ZipFile(buffer, "w") as archive:
        for place in places:
            archive.writestr(place, place)
    data = buffer.getvalue()
    for place, name in zip(places, names, strict=True):
        for record in (30, 46):  # the local header and the directory's have the name at these offsets
            start = data.index(place.encode(), data.index(b"PK\x01\x02") if record == 46 else 0)
            data = data[:start] + name.encode(encoding) + data[start + len(place) :]
    return data


@pytest.mark.parametrize(
    ("encoding", "classes", "taken"),
    [
        ("utf-8", ["강아지", "고양이"], "utf-8"),
        ("utf-8", ["cafe\u0301", "bar"], "utf-8"),
        ("cp949", ["강아지", "고양이"], "cp949"),
        ("cp949", ["똠얌", "펲시"], "cp949"),  # syllables that EUC-KR has not
        ("gb2312", ["玫瑰", "郁金香"], "gbk"),
        ("cp932", ["いぬ", "ネコ"], "cp932"),
        ("cp932", ["犬", "猫"], "cp932"),
        ("big5", ["玫瑰", "鬱金香"], "big5"),
        ("cp866", ["кошки", "собаки"], "cp866"),
        ("cp437", ["Vögel", "Hähne"], "cp437"),
        ("ascii", ["cats", "dogs"], None),
    ],
)
def test_names_that_do_not_say_their_encoding(encoding, classes, taken, tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(as_written([f"{name}/{n}.jpg" for name in classes for n in range(2)], encoding))
    listing = listed(path)
    assert sorted({member.label for member in listing.members}) == sorted(
        n.replace("e\u0301", "\u00e9") for n in classes
    )
    note = f"names in the zip, whose encoding it does not say, are read as {taken}: preprocess.name_encoding"
    assert listing.notes == ([note] if taken else [])


def test_an_encoding_that_is_given(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(as_written(["狗/1.jpg", "猫/1.jpg"], "gb2312"))
    assert {member.label for member in listed(path, Reading(name_encoding="gbk")).members} == {"狗", "猫"}
    with pytest.raises(FrostlineError, match=r"not in preprocess\.name_encoding=utf-8"):
        listed(path, Reading(name_encoding="utf-8"))


def test_a_name_in_unicode_beside_the_other(tmp_path):
    """As Info-ZIP and WinRAR write it."""
    import struct
    import zlib

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for shown, name in (("xx/1.jpg", "개/1.jpg"), ("cats/1.jpg", "cats/1.jpg")):
            info = zipfile.ZipInfo(shown)
            old = shown.replace("xx", "\xb0\xb3").encode("latin-1")
            field = b"\x01" + struct.pack("<L", zlib.crc32(old)) + name.encode()
            info.extra = struct.pack("<HH", 0x7075, len(field)) + field
            archive.writestr(info, b"")
    path.write_bytes(path.read_bytes().replace(b"xx/1.jpg", b"\xb0\xb3/1.jpg"))
    listing = listed(path)
    assert [member.name for member in listing.members] == ["개/1.jpg", "cats/1.jpg"]
    assert listing.notes == []


def test_backslashes_are_separators(tmp_path):
    path = zipped(
        tmp_path / "a.zip", ["train\\cats\\1.png", "train\\dogs\\1.png", "val/cats\\2.png", "val\\dogs/2.png"]
    )
    listing = listed(path)
    assert {member.name: member.label for member in listing.members} == {
        "train/cats/1.png": "cats", "train/dogs/1.png": "dogs", "val/cats/2.png": "cats", "val/dogs/2.png": "dogs",
    }  # fmt: skip
    assert listing.ignored == 0


def test_an_encrypted_zip(tmp_path):
    path = zipped(tmp_path / "a.zip", ["cats/1.jpg", "dogs/1.jpg"])
    data = bytearray(path.read_bytes())
    for start in (at for at in range(len(data)) if data[at : at + 4] == b"PK\x01\x02"):
        data[start + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(FrostlineError, match=r"a\.zip is encrypted"):
        listed(path)


def test_a_name_of_too_many_folders_is_refused(tmp_path):
    deep = "a/" * 30_000 + "1.jpg"
    members = listed(zipped(tmp_path / "a.zip", ["cats/1.jpg", "dogs/1.jpg", deep])).members
    assert [member.refusal for member in members] == ["", "", "unsafe name in the archive"]


def test_zips_within_count_as_folders(tmp_path):
    inner = {}
    for name in ("cats", "dogs"):
        inner[name] = zipped(tmp_path / f"{name}.zip", ["1.jpg", "2.jpg", ".DS_Store"]).read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name, data in inner.items():
            archive.writestr(f"{name}.zip", data)
    assert {member.name: member.label for member in listed(tmp_path / "a.zip").members} == {
        "cats/1.jpg": "cats", "cats/2.jpg": "cats", "dogs/1.jpg": "dogs", "dogs/2.jpg": "dogs",
    }  # fmt: skip
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:  # the zips lie beside what was unpacked from them
        archive.writestr("cats/1.jpg", b"cat")
        archive.writestr("dogs/1.jpg", b"dog")
    found = listed(tmp_path / "a.zip")
    assert [member.name for member in found.members] == ["cats/1.jpg", "dogs/1.jpg"]
    assert "left out, archives that are not unpacked: cats.zip, dogs.zip" in found.notes
