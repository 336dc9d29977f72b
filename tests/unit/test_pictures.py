"""The pictures of the documentation are what their script draws, and can be read in any scheme."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import pytest

from lix_cache import CacheConfig, SemanticSettings
from lix_cache.semantic import watch
from lix_cache.session import offload

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"
DRAWN = sorted(PICTURES.glob("*.svg"))


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_pictures", ROOT / "scripts" / "draw_pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_pictures_are_what_the_script_draws(script: ModuleType) -> None:
    for name, draw in script.DRAWINGS.items():
        drawn = (PICTURES / f"{name}.svg").read_text(encoding="utf-8")
        assert drawn == draw().svg(), f"run scripts/draw_pictures.py: {name}.svg is older than its script"


def test_a_picture_tells_readers_who_do_not_see_it_what_it_shows(script: ModuleType) -> None:
    overview = (PICTURES / "overview.svg").read_text("utf-8")
    for drawn in (overview, *(draw().svg() for draw in script.DRAWINGS.values())):
        root = ElementTree.fromstring(drawn)
        names = {child.tag.rpartition("}")[2]: child for child in root}
        assert root.get("role") == "img"
        assert names["title"].text
        assert len(names["desc"].text or "") > 60
        assert "prefers-color-scheme: dark" in (names["style"].text or "")


def test_the_numbers_in_the_pictures_are_those_of_the_code() -> None:
    text = {path.stem: " ".join(re.findall(r">([^<]+)</text>", path.read_text("utf-8"))) for path in DRAWN}
    # Those that are drawn, and the others beside them while nothing is known to be wrong.
    audited = SemanticSettings.audit_rate * (1 + watch._MORE)
    assert f"about {100 * audited:g} in 100 are audited instead" in text["question"]
    assert (
        f"wrong hits is at most {100 * (SemanticSettings.target_false_hit_rate or 0):g} %."
        in text["question"]
    )
    assert f"{offload.CHUNK} at a time" in text["message"]
    assert f"the last {CacheConfig().hot_window_size} messages" in text["architecture"]


def test_a_text_that_does_not_fit_is_refused(script: ModuleType) -> None:
    picture = script.Picture(200, 100, "a title", "a description")
    with pytest.raises(ValueError, match="does not fit into its box"):
        picture.box(10, 10, 80, 40, "far too long for this box")
    with pytest.raises(ValueError, match="does not fit into the picture"):
        picture.text(150, 20, "out on the right")
