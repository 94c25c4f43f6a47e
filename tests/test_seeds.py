from frostline.seeds import derive_seed, generator


def test_streams_depend_on_the_seed_and_every_name():
    seeds = {
        derive_seed(1, "a"),
        derive_seed(2, "a"),
        derive_seed(1, "b"),
        derive_seed(1, "a", 1),
        derive_seed(1, "a", 2),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_the_same_names_give_the_same_numbers_on_every_machine():
    assert derive_seed(42, "shuffle", "transfer", 1) == 3033230992
    assert generator(1, "x").integers(0, 1000, 3).tolist() == generator(1, "x").integers(0, 1000, 3).tolist()
