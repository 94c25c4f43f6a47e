import pytest

from frostline.common.urls import hide_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@example.com/a.zip?token=secret", "https://example.com/a.zip"),
        ("postgresql://user:se@cret@host:5432/db", "postgresql://host:5432/db"),
        ("https://example.com/a#secret", "https://example.com/a"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("cannot reach http://user:secret@host:5000/api", "cannot reach http://host:5000/api"),
        ("Is this a name?", "Is this a name?"),
        ("http://user:se/cret@host:5000", "http://host:5000"),
        ("https://host:5000/a@b", "https://host:5000/a@b"),
        ("at http://host/a?token=secret: is it away? So it seems.", "at http://host/a is it away? So it seems."),
    ],
)
def test_what_may_be_secret_is_cut_out_and_nothing_else(text, shown):
    assert hide_credentials(text) == shown
