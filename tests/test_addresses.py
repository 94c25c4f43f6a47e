import pytest

from frostline.runtime.urls import hide_credentials


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@example.com/a.zip?token=secret", "https://example.com/a.zip"),
        ("postgresql://user:se@cret@host:5432/db", "postgresql://host:5432/db"),
        ("https://example.com/a#secret", "https://example.com/a"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("cannot reach http://user:secret@host:5000/api", "cannot reach http://host:5000/api"),
        ("Is this a name?", "Is this a name?"),
    ],
)
def test_what_may_be_secret_is_cut_out_and_nothing_else(text, shown):
    assert hide_credentials(text) == shown
