from scvae_fast._settings import differences


def test_names_of_differing_settings() -> None:
    one = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": {}}
    assert differences(one, {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "f": {}}) == []
    assert differences(one, {"a": 2, "b": {"c": [2, 1], "d": {"e": 0}}, "f": {}}) == ["a", "b.c", "b.d.e"]
    assert differences(one, {"a": 1, "b": {"c": [1, 2], "d": {"e": None}}, "g": 3, "f": {}}) == ["g"]
