"""The command `frostline`: train, set, audit, doctor, predict, serve, export, compare, verify, cache."""

import argparse
import csv
import json
import math
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from frostline.common.fit_names import SQUASH
from frostline.config.paths import AUDIT, AUDIT_TABLE, CLASSIFIER, CORRECTIONS
from frostline.config.project import TRAIN_ONE, check_project
from frostline.runtime import own_process
from frostline.runtime.errors import FrostlineError, check_installed, in_one_line
from frostline.runtime.interrupts import take_sigterm_as_ctrl_c
from frostline.runtime.logs import show_as_asked

# TensorFlow is imported by the commands that need it, not by `frostline --help`.


def main() -> None:
    own_process.begin()
    arguments = _parser().parse_args(show_as_asked(sys.argv[1:]))
    try:
        status = arguments.run(arguments)
        print(end="", flush=True)  # what a full disk does not take is an error, too
        sys.exit(status)
    except FrostlineError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `frostline predict … | head`
        sys.stderr.close()
        sys.exit(0)
    except OSError as error:  # a full disk, a file that may not be read
        sys.exit(f"error: {in_one_line(error)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "frostline", description=__doc__, epilog="--quiet: warnings and errors only. --verbose: more of what is done."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add_train(commands.add_parser("train", help="from a folder of pictures to a model and a report"))

    keep = commands.add_parser("set", help="settings that stay for this project; alone: lists them")
    keep.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    keep.add_argument("--unset", action="append", default=[], metavar="KEY", help="back to the default")
    keep.add_argument("--drop-edits", action="store_true", help="also where params.yaml was edited: that is lost")
    keep.set_defaults(run=_set)

    _add_audit(commands.add_parser("audit", help="what is probably wrong in the pictures: labels, duplicates and more"))

    doctor = commands.add_parser("doctor", help="what a run here would use, and why not more")
    doctor.add_argument("--json", action="store_true", help="one JSON object, for programs")
    doctor.set_defaults(run=_doctor)

    predict = commands.add_parser("predict", help="class and probability of images")
    predict.add_argument("places", nargs="+", type=_place, metavar="IMAGE_OR_FOLDER")
    _add_model(predict)
    _add_threshold(predict)
    form = predict.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object a line")
    form.add_argument("--csv", action="store_true", help="a table with a header")
    form.add_argument("--output", type=_place, metavar="FILE", help="a .csv or .parquet file to write")
    predict.set_defaults(run=_predict)

    serve = commands.add_parser("serve", help="classify over HTTP, with a page to drop an image on")
    _add_model(serve)
    _add_threshold(serve)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    serve.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any free one")
    serve.add_argument("--root", type=_place, metavar="FOLDER", help="let requests name files below FOLDER")
    serve.set_defaults(run=_serve)

    export = commands.add_parser("export", help="write a model in another format, checked against itself on images")
    export.add_argument("places", nargs="*", type=_place, metavar="IMAGE", help="to check on (default: test images)")
    export.add_argument("--to", required=True, choices=("onnx", "tflite", "saved_model"))
    _add_model(export)
    export.add_argument("--output", type=_place, metavar="FILE", help="default: exports/ and the model's name")
    export.set_defaults(run=_export)

    compare = commands.add_parser("compare", help="the two phases side by side, as evaluated last")
    compare.set_defaults(run=_compare)

    verify = commands.add_parser("verify", help="run stages again elsewhere: do their outputs match dvc.lock?")
    verify.add_argument("stages", nargs="*", metavar="STAGE", help="a stage of dvc.lock (default: all)")
    verify.set_defaults(run=_verify)

    _add_cache(commands)
    return parser


def _add_cache(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    cache = commands.add_parser("cache", help="the feature cache")
    actions = cache.add_subparsers(required=True, metavar="ACTION")
    listing = actions.add_parser("ls", help="list entries, least recently used first")
    listing.set_defaults(run=_cache_ls)
    prune = actions.add_parser("prune", help="delete least recently used entries")
    prune.add_argument("--keep-gib", type=_gib, default=0, help="GiB that may stay (default: 0, delete all)")
    prune.set_defaults(run=_cache_prune)


def _add_train(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", nargs="?", type=_place, help="one folder per class; left out: the one of last time")
    weights = "of the backbone (default: as last time; at first imagenet)"
    command.add_argument("--weights", metavar="imagenet|random|hub|FILE", help=weights)
    recipe = "quick, good, best, auto, one of conf/experiment (default: as last time; at first best)"
    command.add_argument("--recipe", metavar="NAME", help=recipe)
    limit = "of --recipe auto, with all before and after its search: 90s, 10m, 2h (default: 10m)"
    command.add_argument("--time-limit", metavar="10m", help=limit)
    command.add_argument("--name", help="of the data set in MLflow (default: the folder's)")
    command.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="any setting of params.yaml")
    command.set_defaults(run=_train)


def _add_audit(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--probabilities", type=_place, metavar="FILE", help="out of fold (default: the newest study's)"
    )
    command.add_argument("--top", type=_count, default=50, metavar="N", help="of each on the page (default: 50)")
    command.set_defaults(run=_audit)


def _add_model(command: argparse.ArgumentParser) -> None:
    text = "a .keras file (default: %(default)s, which `dvc repro` makes)"
    command.add_argument("--model", type=_place, default=CLASSIFIER, help=text)


def _add_threshold(command: argparse.ArgumentParser) -> None:
    text = "probability above which the second of two classes is predicted (default: the model's)"
    command.add_argument("--threshold", type=_share, metavar="P", help=text)


def _place(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; is a variable of your shell not set?")
    if re.match("[A-Za-z]:", text) and not Path(text).exists():  # the shell may have taken its backslashes
        raise argparse.ArgumentTypeError(rf"{text} is a path of Windows; in WSL2, C:\Users is /mnt/c/Users")
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text} is an address, of which nothing is fetched; give a file or folder")
    return Path(text)


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number between 0 and 1")


def _gib(text: str) -> float:
    with suppress(ValueError):
        if 0 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text} is not a number of GiB, 0 or more")


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number above 0")


def _train(arguments: argparse.Namespace) -> int:
    from frostline.project.train import train

    settings = _settings(arguments.set + ([f"data.name={arguments.name}"] if arguments.name else []))
    status = train(arguments.folder, arguments.weights, arguments.recipe, settings, arguments.time_limit)
    if status:
        print(
            "Training has stopped; what stands above says why, and `frostline train` goes on from there. "
            "`exited with -9` or 137 is for want of memory: docs/troubleshooting.md",
            file=sys.stderr,
        )
    return status


def _set(arguments: argparse.Namespace) -> int:
    from frostline.project.train import keep

    for key, value in sorted(keep(_settings(arguments.settings), arguments.unset, arguments.drop_edits).items()):
        print(f"{key}={'null' if value is None else value}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    """Exit status 0: the pipeline can run here, 1: something that it needs is missing."""
    from frostline.project.doctor import as_json, as_text, can_run, examine

    found = examine()
    print(as_json(found) if arguments.json else as_text(found))
    return 0 if can_run(found) else 1


def _settings(texts: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` each: what follows the first "=" is the value, whatever it holds."""
    settings: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not (key and sign):
            raise FrostlineError(f"{text!r} is no setting; write KEY=VALUE.")
        if settings.setdefault(key, value) != value:
            raise FrostlineError(f"{key} is given twice, as {settings[key]!r} and as {value!r}.")
    return settings


def _audit(arguments: argparse.Namespace) -> int:
    check_project()
    check_installed("`frostline audit`", "audit", "cleanlab")
    from frostline.audit.run import audit

    for kind, count in audit(arguments.probabilities, arguments.top).items():
        print(f"{kind}: {count:,}")
    print(f"Page: {AUDIT}   Table: {AUDIT_TABLE}   What you decide: {CORRECTIONS}")
    return 0


def _check_model(path: Path) -> None:
    """Raise FrostlineError where there is no model at `path`, before TensorFlow is imported for it."""
    if path.exists():
        return
    if path == CLASSIFIER:
        check_project()
        raise FrostlineError(f"{path} not found: no model was trained here yet. {TRAIN_ONE}")
    raise FrostlineError(f"{path} not found. {TRAIN_ONE}")


def _predict(arguments: argparse.Namespace) -> int:
    from frostline.runtime.progress import track
    from frostline.serving.predict import COLUMNS, find_images, predict_files, write_table

    _check_model(arguments.model)
    files = find_images(arguments.places)
    predictions = predict_files(arguments.model, files, arguments.threshold)
    if arguments.output:
        with track("predict", len(files), "images") as advance:
            failed = write_table(arguments.output, predictions, advance)
        if failed:
            print(f"{failed:,} could not be read: see the column error of {arguments.output}", file=sys.stderr)
        return 1 if failed else 0
    failed = 0
    if arguments.csv:
        writer = csv.DictWriter(sys.stdout, COLUMNS, lineterminator="\n")
        writer.writeheader()
    for prediction in predictions:
        failed += prediction.error is not None
        if arguments.json:
            row = prediction.as_row() | {"probabilities": prediction.probabilities}
            print(json.dumps(row, ensure_ascii=sys.stdout.encoding.lower() != "utf-8"))
        elif arguments.csv:
            writer.writerow(prediction.as_row())
        elif prediction.error is None:
            print(f"{prediction.path}: {prediction.label} {prediction.probability:.4f}")
        else:
            print(f"{prediction.path}: {prediction.error}", file=sys.stderr)
    return 1 if failed else 0


def _serve(arguments: argparse.Namespace) -> int:
    check_installed("`frostline serve`", "serve", "starlette", "uvicorn", "python_multipart")
    _check_model(arguments.model)
    from frostline.serving.server import serve

    try:
        serve(arguments.model, arguments.host, arguments.port, arguments.root, arguments.threshold)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    _check_model(arguments.model)
    from frostline.metrics.predicted import rule_in_words
    from frostline.models.saving import load_trained
    from frostline.serving.export import card_beside, check_images, default_path, export
    from frostline.serving.model_card import FITTED, recorded_origin

    path = arguments.model
    model, metadata = load_trained(path)
    images = check_images(arguments.places, model.input_shape[1], metadata.fit)
    output = arguments.output or default_path(path, arguments.to)
    difference = export(model, metadata, arguments.to, output, images, recorded_origin(path))
    count = f"{len(images)} image{'s' * (len(images) != 1)}"
    print(f"{output}: differs from {path} by at most {difference:.1e} on {count}")
    size, classes = model.input_shape[1], metadata.classes
    calibrated = "" if metadata.temperature == 1 else f", calibrated (temperature {metadata.temperature:.4g})"
    if model.output_shape[1] == 1:
        given = f"P({classes[1]}), (N, 1){calibrated}"
    else:
        given = f"P of each class, (N, {len(classes)}){calibrated}"
    print(f"takes (N, {size}, {size}, 3) float32, RGB from 0 to 255; gives {given}")
    print(rule_in_words(metadata.threshold, classes))
    if metadata.fit != SQUASH:
        print(f"of a picture that is not square, {FITTED[metadata.fit]} ({metadata.fit}): see the model card")
    print(f"model card: {card_beside(output)}")
    return 0


def _compare(arguments: argparse.Namespace) -> int:
    from frostline.project.compare import side_by_side

    print(side_by_side(), end="")
    return 0


_SHOWN = 20
"""Differences printed per output."""


def _verify(arguments: argparse.Namespace) -> int:
    """Exit status 0: all match, 1: something differs, 2: something could not run."""
    from frostline.verify.rerun import verify

    take_sigterm_as_ctrl_c()  # no stage goes on in a deleted folder
    outputs, differing, failed = 0, 0, []
    try:
        for stage in verify(arguments.stages):
            print(stage.stage)
            if stage.error:
                print(f"  not run  {stage.error}", flush=True)
                failed.append(stage.stage)
            for path, lines in sorted(stage.outputs.items()):
                print(f"  {'differs' if lines else 'matches'}  {path}")
                for line in lines[:_SHOWN]:
                    print(f"             {line}")
                if len(lines) > _SHOWN:
                    print(f"             and {len(lines) - _SHOWN} more")
            if stage.changed:
                print(f"  (changed since dvc.lock: {', '.join(stage.changed)})")
            sys.stdout.flush()
            outputs += len(stage.outputs)
            differing += sum(bool(lines) for lines in stage.outputs.values())
    except FrostlineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    unable = f"; could not run: {', '.join(failed)}" if failed else ""
    print(f"{outputs - differing} of {outputs} outputs match dvc.lock{unable}")
    return 2 if failed else 1 if differing else 0


def _cache_ls(arguments: argparse.Namespace) -> int:
    from frostline.features.cache import entries

    check_project()
    rows = entries()
    for entry in rows:
        print(f"{entry.layer:<20} {entry.count:>8} images {entry.bytes / 2**20:>9.1f} MiB")
    print(f"{len(rows)} entries, {sum(entry.bytes for entry in rows) / 2**20:.1f} MiB")
    return 0


def _cache_prune(arguments: argparse.Namespace) -> int:
    from frostline.features.cache import prune

    check_project()
    deleted = prune(arguments.keep_gib)
    print(f"deleted {len(deleted)} entries, {sum(entry.bytes for entry in deleted) / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    main()
