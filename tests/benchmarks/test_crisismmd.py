"""Tests of CrisisMMD: the published tables, tiny tables made here, and precomputed features."""

from __future__ import annotations

import gzip
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mst_distill.benchmarks.crisismmd import CrisisMMD, CrisisMMDFeatures
from mst_distill.benchmarks.crisismmd_files import read_tweets
from mst_distill.benchmarks.source import DamagedSampleError, check_index
from mst_distill.benchmarks.splits import assign_splits, check_splits
from mst_distill.media.tweets import clean_tweet
from raw_sets import CRISIS_HEADER as HEADER
from raw_sets import ENCODERS, Colours, Lengths, write_crisismmd
from raw_sets import crisis_features as features
from raw_sets import tweet_row as row
from raw_sets import write_tweets as write_table

TRAIN, DEV = (f"task_humanitarian_text_img_{split}.tsv" for split in ("train", "dev"))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder with eight tweets for each split, of which the first has two photographs."""
    write_crisismmd(tmp_path)
    return tmp_path


def open_raw(root: Path, **arguments: object) -> CrisisMMD:
    return CrisisMMD("heldout", str(root / "images"), str(root / "splits"), **ENCODERS, **arguments)


@pytest.fixture(scope="module")
def published(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publisher's tables; the training table was reconstructed from the annotations."""
    folder, crisis = tmp_path_factory.mktemp("splits"), shared_data / "crisismmd"
    for split in ("train", "dev", "test"):
        name = f"task_humanitarian_text_img_{split}"
        found = sorted(crisis.glob(f"*/{name}*.tsv.gz"))
        if not found:
            pytest.skip(f"{crisis} has no {name}")
        (folder / f"{name}.tsv").write_bytes(gzip.decompress(found[0].read_bytes()))
    return folder


def test_the_published_tables_have_the_number_of_tweets_in_the_paper(published: Path) -> None:
    _, tweets = read_tweets(published)
    assert len(tweets) == 16_058
    assert tweets["split"].value_counts().to_dict() == {
        "train": 11_585,
        "valid": 2_237,
        "test": 2_236,  # of 2,237: one is also in dev
    }
    assert sorted(tweets["label"].unique()) == list(range(8))
    assert tweets["source"].nunique() == 7
    assert tweets["id"].str.fullmatch(r"\d{18}").all()
    check_splits(tweets)
    assign_splits(tweets, "heldout", seed=0)


def test_the_first_photograph_of_each_published_tweet_is_used(published: Path) -> None:
    _, tweets = read_tweets(published)
    image_of = dict(zip(tweets["id"], tweets["image"], strict=True))
    for file in sorted(published.iterdir()):
        first: dict[str, str] = {}
        for line in file.read_text(encoding="utf-8").split("\n")[1:-1]:
            _, tweet, _, _, image, *_ = line.split("\t")
            first.setdefault(tweet, image)
        differing = sum(image_of[tweet] != image for tweet, image in first.items())
        assert differing <= 1, file  # the tweet that is in two files


def test_the_index_contains_each_tweet_once(raw: Path) -> None:
    source = open_raw(raw)
    check_index(source)
    index = source.index
    assert len(index) == 24
    assert index["split"].value_counts().to_dict() == {"train": 8, "valid": 8, "test": 8}
    assert index["id"].tolist() == [str(9_145_097_570_707_701_000 + n) for n in range(24)]
    assert (index["group"] == index["id"]).all()
    assert index["label"].tolist() == [n % 8 for n in range(24)]
    assert set(index["source"]) == {"hurricane_maria", "srilanka_floods"}
    assert index["image"].str.endswith("_0.jpg").all()
    assert len(source.files) == 3 + 24
    assert not source.omitted


def test_image_and_text_belong_to_the_same_tweet(raw: Path) -> None:
    source = open_raw(raw)
    samples = source.read(source.index.iloc[[3, 20, 9]])
    np.testing.assert_allclose(samples["image"][:, 0], [30, 200, 90], atol=2)
    texts = source.index["text"].iloc[[3, 20, 9]]
    assert samples["text"].tolist() == [[len(clean_tweet(text))] for text in texts]
    assert {name: values.dtype.name for name, values in samples.items()} == {
        "image": "float32",
        "text": "float32",
        "text_repaired": "float32",
    }


def test_a_note_marks_repaired_texts(raw: Path) -> None:
    write_table(raw / "splits" / DEV, [row(8), row(9, tweet_text="Weâ€™re safe")])
    source = open_raw(raw)
    samples = source.read(source.index.query("split == 'valid'"))
    assert set(samples) - set(source.notes) == {"image", "text"}
    assert samples["text_repaired"].tolist() == [1, 1]
    assert samples["text"][1] == len("We're safe")


def test_a_tweet_in_two_files_is_assigned_to_the_first(raw: Path) -> None:
    write_table(raw / "splits" / DEV, [row(2, photograph=1), row(8)])
    index = open_raw(raw).index
    assert index["split"].value_counts().to_dict() == {"train": 8, "test": 8, "valid": 1}
    assert index.loc[2, "image"].endswith("2_0.jpg")


def test_a_missing_image_is_omitted(raw: Path) -> None:
    (raw / "images/data_image/storm/1_10_2017/5_0.jpg").unlink()
    source = open_raw(raw, tolerated_share=0.05)
    tweet = str(9_145_097_570_707_701_005)
    assert list(source.omitted) == [tweet]
    assert "5_0.jpg is missing" in source.omitted[tweet]
    assert len(source.index) == 23
    check_index(source)
    with pytest.raises(ValueError, match=f"1 of 24 samples cannot be used.*{tweet}.*5_0.jpg"):
        check_index(open_raw(raw))


def test_an_unreadable_image_damages_its_sample(raw: Path) -> None:
    (raw / "images/data_image/storm/1_10_2017/5_0.jpg").write_bytes(b"\xff\xd8\xff")
    source = open_raw(raw)
    with pytest.raises(DamagedSampleError, match=r"5_0\.jpg") as error:
        source.read(source.index)
    assert error.value.sample == source.index["id"][5]
    assert len(source.read(source.index.drop(5))["image"]) == 23


def test_a_replaced_image_changes_the_fingerprint(raw: Path) -> None:
    before = open_raw(raw).fingerprint()
    assert open_raw(raw).fingerprint() == before
    Image.new("RGB", (99, 99)).save(raw / "images/data_image/storm/1_10_2017/5_0.jpg")
    assert open_raw(raw).fingerprint() != before


def test_encoders_are_created_on_the_first_read(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created: list[object] = []
    for encoder in (Lengths, Colours):
        monkeypatch.setattr(encoder, "__init__", lambda self: created.append(self))
    source = open_raw(raw)
    assert not created
    source.read(source.index[:1])
    source.read(source.index[1:2])
    assert len(created) == 2


def test_an_unknown_encoder_raises_an_error_before_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown class .*'MinLM'.*did you mean 'MiniLM'"):
        CrisisMMD("heldout", "no", "no", text_encoder="mst_distill.media.encoders.MinLM")


def append(line: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(file.read_text("utf-8") + line + "\n", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (Path.unlink, "is missing: put the three files task_humanitarian"),
        (lambda file: write_table(file, []), "contains no row below the header"),
        (lambda file: file.write_bytes(b""), "line 1: unknown column 'event_name'"),
        (lambda file: write_table(file, [row(1)], HEADER.replace("label\t", "lable\t")), "lable"),
        (lambda file: write_table(file, [row(1)], HEADER.replace("\t", ",")), "unknown column"),
        (lambda file: file.write_bytes(file.read_bytes() + b"caf\xe9"), "line 11 is not UTF-8"),
        (append("hurricane_maria\t7"), "line 11 has 2 fields, but the header has 9"),
        (append(row(1) + "\t"), "line 11 has 10 fields, but the header has 9"),
        (append(row(1, tweet_text="cut in\ntwo")), "line 11 has 4 fields, but the header has 9"),
        (append(row(1, tweet_text="  ")), "line 11: tweet_text of tweet 9145097570707701001 is em"),
        (append(row(1, label="floods")), "line 11: unknown label 'floods'; available: not_hum"),
        (append(row(1, label="vehicle_damages")), "did you mean 'vehicle_damage'"),
        (append(row(1, label="")), "line 11: unknown label ''"),
        (append(row(1, tweet_id="9.14510E+18")), "line 11: tweet_id '9.14510E\\+18' does not"),
        (append(row(1, image="/etc/passwd")), "line 11: image '/etc/passwd' must be a path within"),
        (append(row(1, image="data_image/../../x.jpg")), "line 11: image .* must be a path within"),
        (append(row(1, image="")), "line 11: image '' must be a path within"),
    ],
)
def test_the_error_names_the_damaged_table(
    raw: Path, damage: Callable[[Path], object], rule: str
) -> None:
    damage(raw / "splits" / TRAIN)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        open_raw(raw)
    assert TRAIN in str(error.value)


def test_windows_line_ends_and_a_byte_order_mark_are_accepted(raw: Path) -> None:
    before = open_raw(raw).index
    for file in (raw / "splits").iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert open_raw(raw).index.equals(before)


def test_the_error_for_a_missing_folder_states_its_contents(raw: Path) -> None:
    (raw / "images" / "data_image").rename(raw / "elsewhere")
    with pytest.raises(FileNotFoundError, match="data_image is not a folder: put the photographs"):
        open_raw(raw)
    with pytest.raises(FileNotFoundError, match=r"train\.tsv is missing: put the three files"):
        CrisisMMD("heldout", str(raw), str(raw / "none"))


@pytest.mark.parametrize("form", ["tuple", "list", "dict", "tensors", "old pickle"])
def test_precomputed_features_are_read_in_all_forms(tmp_path: Path, form: str) -> None:
    arrays = features()
    file = tmp_path / "features.pth"
    saved = {
        "list": list(arrays),
        "dict": dict(zip(("image", "text", "label"), arrays, strict=True)),
        "tensors": tuple(map(torch.from_numpy, arrays)),
    }
    torch.save(saved.get(form, arrays), file, _use_new_zipfile_serialization=form != "old pickle")
    source = CrisisMMDFeatures("heldout", str(file))
    check_index(source)
    assert source.index["split"].value_counts().to_dict() == {"train": 24, "valid": 8, "test": 8}
    assert source.index["label"].tolist() == arrays[2].tolist()
    part = source.index.iloc[[17, 4]]
    samples = source.read(part)
    for name, values in zip(("image", "text"), arrays, strict=False):
        assert samples[name].dtype == np.float32
        np.testing.assert_array_equal(samples[name], values[[17, 4]].astype(np.float32))


def test_tensors_with_gradient_or_of_bfloat16_are_read(tmp_path: Path) -> None:
    image, text, label = map(torch.from_numpy, features())
    file = tmp_path / "features.pth"
    torch.save((image.requires_grad_(), text.bfloat16(), label), file)
    source = CrisisMMDFeatures("heldout", str(file))
    samples = source.read(source.index)
    np.testing.assert_array_equal(samples["image"], image.detach().float().numpy())
    np.testing.assert_array_equal(samples["text"], text.bfloat16().float().numpy())


def test_the_split_seed_determines_the_split_of_precomputed_features(tmp_path: Path) -> None:
    file = tmp_path / "features.pth"
    torch.save(features(), file)
    first, again, other = (
        CrisisMMDFeatures("heldout", str(file), seed).index for seed in (0, 0, 1)
    )
    assert first.equals(again)
    assert not first.equals(other)


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_that_runs_code_raises_an_error(tmp_path: Path) -> None:
    image, text, label = features()
    trace = tmp_path / "trace"
    malicious = (image, text, [label, Malicious(trace)])
    torch.save(malicious, tmp_path / "saved.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(malicious, protocol=2))
    for file in (tmp_path / "saved.pth", tmp_path / "bare.pth"):
        with pytest.raises(ValueError, match=f"{file.name}: not a .pth file of only numeric numpy"):
            CrisisMMDFeatures("heldout", str(file))
    assert not trace.exists()


IMAGE, TEXT, LABEL = features()


@pytest.mark.parametrize(
    ("saved", "rule"),
    [
        ((IMAGE, TEXT), "contains tuple, expected"),
        (
            {"image": IMAGE, "text": TEXT, "labels": LABEL},
            r"contains \['image', 'labels', 'text'\]",
        ),
        (IMAGE, "contains ndarray, expected"),
        ((IMAGE[0], TEXT, LABEL), r"image is float64 \(6,\), expected float \(N, width\)"),
        ((IMAGE, TEXT.astype(int), LABEL), r"text is int64 \(40, 4\), expected float"),
        ((IMAGE, TEXT, LABEL[:, None]), r"label is int64 \(40, 1\), expected integers"),
        ((IMAGE, TEXT, LABEL / 2), r"label is float64 \(40,\), expected integers"),
        ((IMAGE, TEXT[:-1], LABEL), "differ in length: {'image': 40, 'text': 39, 'label': 40}"),
        ((IMAGE, TEXT, LABEL + 1), "label of row 7 is 8, expected 0 to 7"),
        ((IMAGE, TEXT, LABEL - 1), "label of row 0 is -1, expected 0 to 7"),
        ((IMAGE, TEXT.astype(object), LABEL), "not a .pth file of only numeric numpy arrays"),
        (([[1.0], [1.0, 2.0]], TEXT, LABEL), "image is not an array of numbers"),
    ],
)
def test_the_error_states_what_is_wrong_with_precomputed_features(
    tmp_path: Path, saved: object, rule: str
) -> None:
    file = tmp_path / "features.pth"
    torch.save(saved, file)
    with pytest.raises(ValueError, match=rule) as error:
        CrisisMMDFeatures("heldout", str(file))
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (Path.unlink, "is missing: put precomputed features there"),
        (lambda file: file.write_bytes(b""), "not a .pth file of only numeric"),
        (lambda file: file.write_bytes(b"<html>"), "not a .pth file of only numeric"),
        (
            lambda file: file.write_bytes(file.read_bytes()[:-500]),
            "not a .pth file of only numeric",
        ),
        (lambda file: file.write_bytes(b"\x80\x02X\x01\x00\x00\x00\xff."), "not a .pth file"),
    ],
)
def test_the_error_names_damaged_precomputed_features(
    tmp_path: Path, damage: Callable[[Path], object], rule: str
) -> None:
    file = tmp_path / "features.pth"
    torch.save(features(), file)
    damage(file)
    with pytest.raises((ValueError, FileNotFoundError), match=rule) as error:
        CrisisMMDFeatures("heldout", str(file))
    assert str(file) in str(error.value)
