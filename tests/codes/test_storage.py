import dataclasses
import gc
import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import TINY

from scvae_fast.codes import CodedPicture, SparseCodes, storage
from scvae_fast.codes.storage import CodeFile, CodeFileError, write_codes
from scvae_fast.models import SCVAE


@pytest.fixture(scope="module")
def model() -> SCVAE:
    torch.manual_seed(0)
    return SCVAE(TINY).eval()


def coded(name: str = "a.png", size: tuple[int, int] = (7, 10), *, seed: int = 0) -> CodedPicture:
    generator = torch.Generator().manual_seed(seed)
    shape = (*TINY.grid(*size), 24)
    kept = torch.rand(shape, generator=generator) < 0.2
    return CodedPicture(name, size, SparseCodes.of(torch.randn(shape, generator=generator) * kept))


def pictures(count: int) -> list[CodedPicture]:
    return [coded(f"folder/{i}.png", (1 + i % 9, 2 + i % 5), seed=i) for i in range(count)]


@pytest.fixture
def written(model: SCVAE, tmp_path: Path) -> Path:
    write_codes(tmp_path / "codes.parquet", model, pictures(12), values="float32")
    return tmp_path / "codes.parquet"


def test_float32_is_exact(written: Path, model: SCVAE) -> None:
    file = CodeFile(written)
    assert len(file) == 12
    for _ in range(2):  # it can be read again
        for found, expected in zip(file, pictures(12), strict=True):
            assert found[:2] == expected[:2]
            for field in ("counts", "atoms", "values"):
                one, other = getattr(found.codes, field), getattr(expected.codes, field)
                assert one.dtype == other.dtype
                assert np.array_equal(one, other)
    file.check_model(model)
    assert file.info.config == json.loads(json.dumps(TINY.to_dict()))


def test_float16_rounds_values_and_nothing_else(model: SCVAE, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes.parquet", model, [coded()])
    (found,) = CodeFile(tmp_path / "codes.parquet")
    expected = coded().codes
    assert found.codes.values.dtype == np.float16
    assert np.array_equal(found.codes.values, torch.from_numpy(expected.values).half().numpy())
    assert np.array_equal(found.codes.atoms, expected.atoms)
    assert torch.equal(found.codes.dense(dtype=torch.float32), expected.dense().half().float())


def test_entries_that_float16_rounds_to_zero_are_left_out(model: SCVAE, tmp_path: Path) -> None:
    dense = torch.zeros(*TINY.grid(4, 4), 24)
    dense[..., 3], dense[0, 0, 1] = 1.0, 1e-9
    picture = CodedPicture("a.png", (4, 4), SparseCodes.of(dense))
    size = write_codes(tmp_path / "codes.parquet", model, [picture], values="float16")
    (found,) = CodeFile(tmp_path / "codes.parquet")
    assert size.entries == found.codes.n_entries == dense[..., 0].numel()
    assert found.codes.usage().nonzero().tolist() == [[3]]
    assert write_codes(tmp_path / "exact.parquet", model, [picture], values="float32").entries == size.entries + 1


def test_sizes_add_up(model: SCVAE, tmp_path: Path) -> None:
    size = write_codes(tmp_path / "codes.parquet", model, iter(pictures(12)))
    dense = [picture.codes.dense() for picture in pictures(12)]
    assert size.pictures == 12
    assert size.pixels == sum(picture.size[0] * picture.size[1] for picture in pictures(12))
    assert size.cells == sum(each[..., 0].numel() for each in dense)
    assert size.entries == sum(int(each.count_nonzero()) for each in dense)
    assert size.n_bytes == (tmp_path / "codes.parquet").stat().st_size
    assert size.bits_per_pixel == 8 * size.n_bytes / size.pixels


def test_other_readers_can_read_it(written: Path) -> None:
    table = pq.read_table(written)
    assert table["name"].to_pylist() == [picture.name for picture in pictures(12)]
    assert table["atoms"].to_pylist() == [picture.codes.atoms.tolist() for picture in pictures(12)]
    compressions = {
        pq.ParquetFile(written).metadata.row_group(0).column(column).compression for column in range(table.num_columns)
    }
    assert compressions == {"ZSTD"}


def test_no_picture_and_pictures_without_entries(model: SCVAE, tmp_path: Path) -> None:
    size = write_codes(tmp_path / "none.parquet", model, [])
    assert (len(CodeFile(tmp_path / "none.parquet")), list(CodeFile(tmp_path / "none.parquet"))) == (0, [])
    assert np.isnan(size.bits_per_pixel)
    blank = CodedPicture("blank", (2, 2), SparseCodes.of(torch.zeros(1, 1, 24)))
    write_codes(tmp_path / "blank.parquet", model, [blank, blank])
    assert [picture.codes.n_entries for picture in CodeFile(tmp_path / "blank.parquet")] == [0, 0]


@pytest.mark.parametrize(("limit", "most"), [("_PICTURES_AT_ONCE", 8), ("_ENTRIES_AT_ONCE", 600)])
def test_memory_holds_one_row_group(
    limit: str, most: int, model: SCVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, limit, most)
    alive: weakref.WeakSet[SparseCodes] = weakref.WeakSet()
    in_group, peak = 8, 0

    def stream() -> Iterator[CodedPicture]:
        nonlocal peak
        for i in range(50):
            picture = coded(str(i))  # 20 cells and about 96 entries: after the sixth there are 600 of both
            alive.add(picture.codes)
            peak = max(peak, len(alive))
            yield picture
            del picture

    gc.disable()  # nothing may need it
    try:
        write_codes(tmp_path / "codes.parquet", model, stream())
    finally:
        gc.enable()
    assert peak <= in_group + 1
    groups = pq.ParquetFile(tmp_path / "codes.parquet").metadata.num_row_groups
    assert 50 / in_group <= groups <= 13
    assert [picture.name for picture in CodeFile(tmp_path / "codes.parquet")] == [str(i) for i in range(50)]


def test_a_file_appears_whole_or_not_at_all(written: Path, model: SCVAE) -> None:
    before = written.read_bytes()

    def breaks() -> Iterator[CodedPicture]:
        yield coded()
        raise RuntimeError("the camera fell")

    with pytest.raises(RuntimeError, match="the camera fell"):
        write_codes(written, model, breaks())
    assert written.read_bytes() == before
    assert list(written.parent.iterdir()) == [written]


def test_codes_that_do_not_fit_the_model(model: SCVAE, tmp_path: Path) -> None:
    fine = coded()
    for wrong in (
        fine._replace(size=(7, 11)),
        fine._replace(codes=SparseCodes.of(torch.zeros(4, 5, 23))),
    ):
        with pytest.raises(ValueError, match=r"codes of 'a.png', 7 x 1. pixels, must be "):
            write_codes(tmp_path / "codes.parquet", model, [wrong])
    with pytest.raises(ValueError, match="values must be one of"):
        write_codes(tmp_path / "codes.parquet", model, [fine], values="int8")  # type: ignore[arg-type]
    large = fine._replace(codes=dataclasses.replace(fine.codes, values=fine.codes.values * 1e6))
    with pytest.raises(CodeFileError, match=r"a.png have values too large for float16: use float32"):
        write_codes(tmp_path / "codes.parquet", model, [large])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_can_not_be_made(model: SCVAE, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CodeFileError, match=r"file/codes.parquet can't be written"):
        write_codes(tmp_path / "file" / "codes.parquet", model, [coded()])


def test_codes_of_another_model(written: Path) -> None:
    torch.manual_seed(1)
    for other in (SCVAE(TINY), SCVAE(dataclasses.replace(TINY, n_iter=4))):
        with pytest.raises(CodeFileError, match=r"made by another model: its fingerprint is [0-9a-f]{12}…"):
            CodeFile(written).check_model(other)


def test_files_that_are_not_files_of_codes(tmp_path: Path) -> None:
    with pytest.raises(CodeFileError, match=r"missing.parquet can't be read: No such file"):
        CodeFile(tmp_path / "missing.parquet")
    with pytest.raises(CodeFileError, match="holds no parts of codes, which scvae-fast encode writes"):
        CodeFile(tmp_path)
    for content in (b"", b"some text that is no Parquet file"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(CodeFileError, match="other is not a file of codes"):
            CodeFile(tmp_path / "other")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "table.parquet")
    with pytest.raises(CodeFileError, match="is a Parquet file, but not one of codes"):
        CodeFile(tmp_path / "table.parquet")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_file_cut_short(share: float, written: Path) -> None:
    content = written.read_bytes()
    written.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CodeFileError, match="is cut short or damaged"):
        CodeFile(written)


def test_a_damaged_page(written: Path) -> None:
    content = bytearray(written.read_bytes())
    column = pq.ParquetFile(written).metadata.row_group(0).column(7)
    content[column.data_page_offset + column.total_compressed_size - 5] ^= 0xFF
    written.write_bytes(content)
    file = CodeFile(written)
    with pytest.raises(CodeFileError, match="is damaged in row group 0"):
        list(file)


def rewrite(path: Path, change: dict[str, object] | None = None, **columns: pa.Array) -> None:
    """The file again with other metadata or columns."""
    table = pq.read_table(path)
    for name, values in columns.items():
        index = table.schema.get_field_index(name)
        table = table.set_column(index, table.schema.field(name), values.cast(table.schema.field(name).type))
    key = b"scvae_fast.codes"
    metadata = json.loads(table.schema.metadata[key])
    metadata.update(change or {})
    pq.write_table(table.replace_schema_metadata({key: json.dumps(metadata)}), path)


def test_another_version_of_the_format(written: Path) -> None:
    rewrite(written, {"schema": 2, "scvae_fast": "9.1"})
    with pytest.raises(CodeFileError, match=r"has format 2, written by scvae_fast 9\.1; this version reads format 1"):
        CodeFile(written)


@pytest.mark.parametrize("change", [{"values": "float16"}, {"n_atoms": 70000}])
def test_columns_that_are_not_those_of_the_format(change: dict[str, object], written: Path) -> None:
    rewrite(written, change)
    with pytest.raises(CodeFileError, match="its columns are not those of format 1"):
        CodeFile(written)


@pytest.mark.parametrize(
    "change",
    [
        {"stride": 0},
        {"stride": "2"},
        {"stride": 2.0},
        {"stride": True},
        {"n_atoms": "24"},
        {"n_atoms": 0},
        {"n_atoms": 10**30},
        {"n_atoms": None},
        {"values": "int8"},
        {"values": []},
        {"config": 3},
        {"fingerprint": None},
        {"scvae_fast": {}},
    ],
)
def test_metadata_of_wrong_types_or_values(change: dict[str, object], written: Path) -> None:
    rewrite(written, change)
    (name,) = change
    with pytest.raises(CodeFileError, match=rf"is damaged: its metadata can't be read: ValueError\(.{name} is"):
        CodeFile(written)


def test_a_picture_too_large_for_memory(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCVAE_FAST_MAX_MEGAPIXELS", "0.00001")
    with pytest.raises(
        CodeFileError, match=r"folder/\d+.png: .* pixels are too many, at most 10 are allowed \(SCVAE_FAST"
    ):
        list(CodeFile(written))


def test_names_that_are_not_utf_8_are_escaped(model: SCVAE, tmp_path: Path) -> None:
    write_codes(tmp_path / "codes.parquet", model, [coded(os.fsdecode(b"caf\xe9.png"))])
    assert [picture.name for picture in CodeFile(tmp_path / "codes.parquet")] == ["caf\\udce9.png"]


def test_metadata_that_lacks_something(written: Path) -> None:
    rewrite(written)
    table = pq.read_table(written)
    pq.write_table(table.replace_schema_metadata({b"scvae_fast.codes": b'{"schema": 1}'}), written)
    with pytest.raises(CodeFileError, match="its metadata can't be read: KeyError"):
        CodeFile(written)


@pytest.mark.parametrize(
    ("column", "value", "message"), [("height", 99, "has 1 x 1 cells"), ("h", 2, "has 2 x 1 cells")]
)
def test_rows_that_contradict_themselves(column: str, value: int, message: str, written: Path) -> None:
    rest = [picture.size[0] if column == "height" else picture.codes.h for picture in pictures(12)]
    rewrite(written, **{column: pa.array([value, *rest[1:]])})
    with pytest.raises(CodeFileError, match=f"damaged in row group 0: folder/0.png .*{message}"):
        list(CodeFile(written))


def test_atoms_out_of_range(written: Path) -> None:
    atoms = [picture.codes.atoms.tolist() for picture in pictures(12)]
    atoms[-1][-1] = 24
    rewrite(written, atoms=pa.array(atoms))
    with pytest.raises(CodeFileError, match="atoms must be below 24, got 24"):
        list(CodeFile(written))
