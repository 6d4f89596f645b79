"""Each script keeps the contract of its header, and its words are those of the Python enums."""

import re
from pathlib import Path

import pytest

from app.events.model import Appended
from app.infra.scripts import SCRIPTS_FOLDER, ScriptContract, with_includes
from app.ledger import codes

ENUMS = (
    codes.Script,
    codes.Refused,
    codes.Loaded,
    codes.Inspected,
    codes.Refreshed,
    codes.Stopped,
    Appended,
)
SCRIPTS = sorted(SCRIPTS_FOLDER.glob("*.lua"))
EXPECTED = {codes.Refused.VERSION_MISMATCH, codes.Refused.AVAILABLE_BELOW_EXPECTED}
WORDS = {
    "append": set(Appended),
    "admit": {*codes.Script, *codes.Refused} - {codes.Refused.GROUP_REFUSED},
    "admit_groups": {*codes.Script, *codes.Refused} - EXPECTED,
    "confirm": {codes.Script.DONE, codes.Script.FENCED, codes.Script.STALE},
    "flights": {codes.Script.DONE, codes.Script.FENCED},
    "inspect": {codes.Script.DONE, codes.Script.FENCED, *codes.Inspected},
    "load": {codes.Script.DONE, codes.Script.FENCED, *codes.Loaded},
    "open": {codes.Script.DONE, codes.Script.FENCED},
    "refresh": {codes.Script.DONE, codes.Script.FENCED, *codes.Refreshed},
    "reload": {codes.Script.DONE, codes.Script.FENCED, codes.Script.STALE},
    "stop": {*codes.Script, *codes.Stopped},
}


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_every_script_has_its_words_listed_here() -> None:
    assert {path.stem for path in SCRIPTS} == set(WORDS)


def test_header_words_are_those_of_the_enums(script: Path) -> None:
    contract = ScriptContract(script.stem, script.read_text())
    assert contract.words == {str(word) for word in WORDS[script.stem]}


def test_body_returns_only_words_of_the_header(script: Path) -> None:
    contract = ScriptContract(script.stem, script.read_text())
    assert _words_written(script.read_text()) <= contract.words
    assert contract.words <= _words_written(with_includes(script.read_text(), SCRIPTS_FOLDER))


def _words_written(source: str) -> set[str]:
    code = "\n".join(line for line in source.splitlines() if not line.startswith("--"))
    known = {word.value for enum in ENUMS for word in enum}
    return set(re.findall(r"'([a-z_]+)'", code)) & known


def test_header_states_keys_and_arguments(script: Path) -> None:
    contract = ScriptContract(script.stem, script.read_text())
    assert contract.key_names
    # The stream of events belongs to no epoch.
    first = "mark" if script.stem == "append" else "identity"
    assert contract.argument_names[0] == (first, False)


def test_a_call_with_wrong_counts_is_refused(script: Path) -> None:
    contract = ScriptContract(script.stem, script.read_text())
    with pytest.raises(ValueError, match=script.stem):
        contract.check_counts(0, 1)
    with pytest.raises(ValueError, match=script.stem):
        contract.check_counts(1, 0)


def test_scripts_never_build_numbers_into_text_by_concatenation(script: Path) -> None:
    assert "tostring" not in script.read_text()


def test_script_bodies_stay_short(script: Path) -> None:
    lines = [line for line in script.read_text().splitlines() if line and not line.startswith("--")]
    # Admission decides, reserves and names who else is in flight at one instant, so in one script.
    assert len(lines) <= (85 if script.stem.startswith("admit") else 70)
