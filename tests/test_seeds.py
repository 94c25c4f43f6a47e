from frostline.common.seeds import derive_seed, generator, seed32


def test_streams_depend_on_the_seed_and_every_name():
    for derive, bits in ((derive_seed, 128), (seed32, 32)):
        seeds = {derive(1, "a"), derive(2, "a"), derive(1, "b"), derive(1, "a", 1), derive(1, "a", 2)}
        assert len(seeds) == 5
        assert bits - 8 < max(seed.bit_length() for seed in seeds) <= bits


def test_the_same_names_give_the_same_numbers_on_every_machine():
    assert derive_seed(42, "shuffle", "transfer", 1) == 240317317999685079857318609833931878056
    assert seed32(42, "shuffle", "transfer", 1) == 3033230992
    assert generator(1, "x").integers(0, 1000, 3).tolist() == [371, 620, 635]


def test_a_generator_takes_all_bits_of_its_seed():
    assert generator(1, "x").bit_generator.seed_seq.entropy == derive_seed(1, "x")


def test_no_two_of_many_images_share_a_stream():
    names = [
        f"{folder}.{number}.jpg" for folder in ("train/cat", "train/dog", "test/", "other/") for number in range(25_000)
    ]
    assert len({derive_seed(3, name) for name in names}) == len(names)
    # With 32 bits these two names had one stream.
    states = [generator(3, f"train/dog.{number}.jpg").bit_generator.state for number in (3559, 8610)]
    assert states[0] != states[1]
