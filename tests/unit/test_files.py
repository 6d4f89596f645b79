"""The scripts and statements are found in a checkout and in an installed package."""

from pathlib import Path

from app.infra.files import shipped


def test_in_a_checkout_they_stand_beside_the_package() -> None:
    assert (shipped("lua") / "admit.lua").exists()
    assert (shipped("sql") / "migrations").is_dir()


def test_once_installed_they_are_inside_it(tmp_path: Path) -> None:
    inside = tmp_path / "app" / "lua"
    inside.mkdir(parents=True)
    (tmp_path / "lua").mkdir()
    assert shipped("lua", tmp_path / "app") == inside
