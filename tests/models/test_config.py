"""Model files: base files, overrides, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest

from models.config import ModelConfig, load_model_config, model_config_from
from utils.config import ROOT, ConfigError, load_yaml, to_plain

BODY = "backbone: {type: darknet, depths: [1], channels: [8]}\nhead: {type: anchor, anchors: [[8, 8]]}\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"empty.yaml: expected 'key: value' lines"):
        load_model_config(write(tmp_path / "empty.yaml", ""))


def test_names_and_paths_find_the_same_file() -> None:
    assert load_model_config("cspdet-n") == load_model_config("cspdet-n.yaml")
    assert load_model_config("cspdet-n").name == "cspdet-n"


def test_defaults(tmp_path: Path) -> None:
    config = load_model_config(write(tmp_path / "m.yaml", BODY))
    assert (config.size, config.resize, config.neck, config.published) == ((416, 416), "letterbox", None, [])


def test_plain_values_round_trip() -> None:
    config = load_model_config("cspresnext50-panet-spp", ["image_size=[320, 512]"])
    assert config.size == (320, 512)
    assert model_config_from(to_plain(config), where="checkpoint") == config


def test_csp_may_have_an_entry_for_each_stage() -> None:
    config = load_model_config("csppeleenet", ["backbone.csp=[null, {ratio: 0.25}, null, {fusion: last}]"])
    assert config.backbone["csp"] == [None, {"ratio": 0.25}, None, {"fusion": "last"}]
    assert model_config_from(to_plain(config), where="checkpoint") == config


def test_overrides_come_last(tmp_path: Path) -> None:
    path = write(tmp_path / "m.yaml", BODY + "image_size: 320\n")
    config = load_model_config(path, ["image_size=352", "backbone.depths=[3]"])
    assert config.size == (352, 352)
    assert config.backbone["depths"] == [3]


def test_base_is_merged_key_by_key(tmp_path: Path) -> None:
    published = "published: [{image_size: 416, AP: 1.0}]\nname: parent\n"
    write(tmp_path / "parent.yaml", BODY + "neck: {type: panet, channels: [8], depth: 2}\n" + published)
    write(tmp_path / "child.yaml", "base: parent.yaml\nbackbone: {depths: [2]}\nneck: {type: prn, channels: [4]}\n")
    config = load_model_config(write(tmp_path / "grandchild.yaml", "base: child\nresize: stretch\n"))
    assert config.backbone == {"type": "darknet", "depths": [2], "channels": [8]}
    assert config.neck == {"type": "prn", "channels": [4]}  # another type starts afresh
    assert config.resize == "stretch"
    assert (config.name, config.published) == ("grandchild", [])  # figures of the base are not the variant's


def test_base_in_a_circle_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="its own base"):
        load_model_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BODY + "backbon: {}\n", r"backbon: unknown key. Did you mean 'backbone'"),
        ("backbone: {type: darknet}\n", "head: this key is missing"),
        (BODY + "resize: cut\n", "resize: expected one of letterbox, corner, stretch, crop"),
        (BODY + "image_size: 0\n", "image_size: expected one side"),
        (BODY + "image_size: [1, 2, 3]\n", "image_size: expected one side"),
        (BODY + "published: [{AP: 1.0}]\n", "image_size in pixels with every entry"),
        (BODY + "published: [{image_size: 416, bflop: 1.0}]\n", "published.bflop: unknown key. Did you mean 'bflops'"),
        (BODY + "published: [{image_size: 416, AP: much}]\n", "published.AP: expected a number, found 'much'"),
        (
            BODY + "published: [{image_size: 416, AP: 1, unverified: [fps]}]\n",
            r"keys of the same entry, found \['fps'\]",
        ),
        (BODY + "base: 3\n", "base: expected the name of a model file"),
        (BODY + "base: nowhere\n", "nowhere"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model_config(write(tmp_path / "m.yaml", text))


def test_config_is_frozen() -> None:
    config = ModelConfig(backbone={}, head={})
    with pytest.raises(AttributeError):
        config.resize = "stretch"


def test_one_to_one_branches_need_no_suppression_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    head = "base: cspdet-n-af\nhead: {one_to_one: true}\n"
    for text, nms in ((head, "none"), (head + "nms: diounms\n", "diounms"), ("base: cspdet-n-af", "vote")):
        (tmp_path / "model.yaml").write_text(text)
        assert load_model_config(tmp_path / "model.yaml").nms == nms
    switched = ["head.one_to_one=true"]
    assert load_model_config("cspdet-n-af", switched).nms == "none"
    assert load_model_config("cspdet-n-af", [*switched, "nms=vote"]).nms == "vote"
    assert load_yaml(ROOT / "cfg" / "cspdet-n-e2e.yaml")["nms"] == "none", "the shipped file says so itself"


def test_classifiers_cut_their_images_unless_their_file_says_otherwise(tmp_path: Path) -> None:
    head = "backbone: {type: darknet, depths: [1], channels: [8]}\nhead: {type: classify}\n"
    for text, resize in ((head, "crop"), (head + "resize: stretch\n", "stretch"), ("base: cspdet-n", "letterbox")):
        (tmp_path / "model.yaml").write_text(text)
        assert load_model_config(tmp_path / "model.yaml").resize == resize
