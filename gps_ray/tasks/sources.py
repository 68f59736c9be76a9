"""The rows of a source: a Parquet, JSON or CSV file, a folder of the ``datasets`` library, a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
import pyarrow.parquet as pq

from gps_ray.base.errors import DataError, one_line
from gps_ray.base.json_files import parse_json
from gps_ray.config import COLUMNS, SourceConfig
from gps_ray.tasks.prompt_files import SourceRow, read_prompt

__all__ = ["json_rows", "read_source"]

_ROWS_AT_ONCE = 4096
_HUB_ANSWERS_S = 5.0


def read_source(source: SourceConfig, config_key: str, task: str = "") -> list[SourceRow]:
    """Every row of a source in its order, duplicates and all. ``task``: the data source of rows that name none.

    Raises DataError, one line that names ``config_key`` and what to change, where the source is not there, is not
    whole, is empty, has other columns, or has a row that cannot be used.
    """
    kind = "parquet" if config_key.endswith("_file") and not source.is_file else source.kind
    readers = {"parquet": _parquet, "csv": _csv, "folder": _folder, "hub": _hub}
    if kind == "json":
        rows = json_rows(source, config_key)
    else:
        table = readers[kind](source, config_key)
        _check_columns(table.schema.names, source, config_key, task)
        _check_types(table.schema, source, config_key)
        rows = _plain_rows(table, source, config_key)
    prompts = []
    for index, row in enumerate(rows):
        if index == 0 and kind == "json":
            _check_columns(list(row), source, config_key, task)
        where = f"{config_key}: row {index} of {source.path}"
        prompts.append(read_prompt(row, where, config_key, source, task if source.columns else ""))
    if not prompts:
        raise DataError(
            f"{config_key}: {source.path} holds no prompts; give a file with at least one row as {config_key}"
        )
    return prompts


def _read_columns(source: SourceConfig, names: list[str], config_key: str) -> list[str]:
    """The columns that are read, of those that are there. Raises DataError for one that is there twice."""
    wanted = [source.columns.get(name, column) for name, column in COLUMNS.items()]
    wanted = [column if column in names else column.split(".")[0] for column in wanted]
    read = [name for name in names if name in (*wanted, *source.extra_columns)]
    twice = [name for name in read if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{config_key}: {source.path} has {names.count(twice[0])} columns {twice[0]!r}, expected one; rename the "
            f"others or change {config_key}"
        )
    return read


def _check_columns(names: list[str], source: SourceConfig, config_key: str, task: str) -> None:
    """Prompt and answer must be there, and a data source unless the config names the verifier."""
    needed = {name: source.columns.get(name, COLUMNS[name]) for name in ("data_source", "prompt", "answer")}
    if source.verifier is not None or (task and source.columns and "data_source" not in source.columns):
        del needed["data_source"]
    named = [source.columns[name] for name in ("level", "extra_info") if name in source.columns]
    for column in (*needed.values(), *named, *source.extra_columns):
        top = column if column in names else column.split(".")[0]
        if top not in names:
            verls = ", ".join(dict.fromkeys(column.split(".")[0] for column in needed.values()))
            remedy = f"give a Parquet file with columns {verls} as {config_key}"
            if not config_key.endswith("_file"):
                remedy = (
                    f"set {config_key}.columns, e.g. {{prompt: question, answer: answer}}, and {config_key}.verifier "
                    "where no column says who judges"
                )
            raise DataError(f"{config_key}: {source.path} has no column {top!r}, only {', '.join(names)}; {remedy}")


def _check_types(schema: pa.Schema, source: SourceConfig, config_key: str) -> None:
    expected = {
        source.columns.get("data_source", "data_source"): (_is_text, "a string"),
        source.columns.get("prompt", "prompt"): (_is_prompt, "a string or a list of {role, content}"),
    }
    if "answer" not in source.columns:
        expected["reward_model"] = (pa.types.is_struct, "a struct with ground_truth")
    for column, (is_expected, what) in expected.items():
        if column in schema.names and not is_expected(schema.field(column).type):
            raise DataError(
                f"{config_key}: column {column!r} of {source.path} must be {what}, got {schema.field(column).type}; "
                f"rewrite the column or change {config_key}"
            )


def _plain_rows(table: pa.Table, source: SourceConfig, config_key: str) -> Iterator[dict[str, Any]]:
    """A part of the table at a time: the whole of it as Python objects takes many times its memory."""
    table = table.select(_read_columns(source, table.column_names, config_key))
    single = [field.name for field in table.schema if _holds_single_floats(field.type)]
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        for row in batch.to_pylist():
            yield row | {name: _as_single(row[name]) for name in single}


def _holds_single_floats(kind: pa.DataType) -> bool:
    if pa.types.is_float32(kind) or pa.types.is_float16(kind):
        return True
    return any(_holds_single_floats(kind.field(place).type) for place in range(kind.num_fields))


def _as_single(value: Any) -> Any:
    """A float of 32 bits as it was written: .1 and not .10000000149011612."""
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if isinstance(value, Mapping):
        return {name: _as_single(part) for name, part in value.items()}
    return [_as_single(part) for part in value] if isinstance(value, list) else value


def _file(source: SourceConfig, config_key: str) -> Path:
    path = Path(source.path)
    if not path.is_file():
        raise DataError(f"{config_key}: no file {path}; change {config_key}")
    return path


def _parquet(source: SourceConfig, config_key: str) -> pa.Table:
    path = _file(source, config_key)
    try:
        names = pq.read_schema(path).names
        return pq.read_table(path, columns=_read_columns(source, names, config_key) or None, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{config_key}: {path} is not a whole Parquet file ({one_line(error)}); change {config_key}"
        ) from error


def _csv(source: SourceConfig, config_key: str) -> pa.Table:
    """Every column as text: '007' and '1.50' are answers as they stand."""
    path = _file(source, config_key)
    parse = pc.ParseOptions(newlines_in_values=True)
    try:
        with pc.open_csv(path, parse_options=parse) as opened:
            names = opened.schema.names
        types = pc.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
        return pc.read_csv(path, parse_options=parse, convert_options=types)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{config_key}: {path} is no CSV file with a header line in UTF-8 ({one_line(error)}); change {config_key}"
        ) from error


def json_rows(source: SourceConfig, config_key: str) -> Iterator[dict[str, Any]]:
    """JSON lines, or one JSON list. Values stay as they are written: nothing is taken for a date."""
    path = _file(source, config_key)

    def wrong(line: int, what: str) -> DataError:
        return DataError(
            f"{config_key}: line {line} of {path}: expected a JSON object, got {what}; mend the line or change "
            f"{config_key}"
        )

    try:
        with path.open(encoding="utf-8-sig") as lines:
            if lines.read(1) == "[":
                lines.seek(0)
                values = enumerate(parse_json(lines.read(), unique_keys=True), 1)
            else:
                lines.seek(0)
                values = ((number, line) for number, line in enumerate(lines, 1) if line.strip())  # type: ignore[assignment]
            for number, value in values:
                try:
                    row = parse_json(value, unique_keys=True) if isinstance(value, str) else value
                except ValueError as error:
                    raise wrong(number, one_line(error)) from error
                if not isinstance(row, Mapping):
                    raise wrong(number, repr(row)[:80])
                yield dict(row)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{config_key}: cannot read {path} as JSON lines in UTF-8 ({one_line(error)}); change {config_key}"
        ) from error


def _folder(source: SourceConfig, config_key: str) -> pa.Table:
    from datasets import DatasetDict, load_from_disk  # seconds of import, needed only here

    if not Path(source.path).is_dir():
        raise DataError(
            f"{config_key}: no folder {source.path}; give a file that ends in .parquet, .jsonl, .json or .csv, a "
            f"folder of datasets' save_to_disk, or the id of a hub data set as {config_key}.path"
        )
    try:
        loaded = load_from_disk(source.path)
    except Exception as error:  # whatever a damaged folder leads to in the library
        raise DataError(
            f"{config_key}: {source.path} is no folder of datasets' save_to_disk ({one_line(error)}); change "
            f"{config_key}.path"
        ) from error
    if isinstance(loaded, DatasetDict):
        if source.split not in loaded:
            raise DataError(
                f"{config_key}.split: {source.path} has no split {source.split!r}, only {', '.join(loaded)}; change "
                f"{config_key}.split"
            )
        loaded = loaded[source.split]
    return loaded.with_format("arrow")[:]


def _hub(source: SourceConfig, config_key: str) -> pa.Table:
    import datasets

    was_offline = datasets.config.HF_HUB_OFFLINE
    try:
        # What it has kept it gives without a network too, and its own tries to reach one take half a minute.
        datasets.config.HF_HUB_OFFLINE = was_offline or not _hub_answers()
        loaded = datasets.load_dataset(source.path, source.name, split=source.split)
    except Exception as error:  # no network, no such data set, no such split, a script that it would have to run
        raise DataError(
            f"{config_key}: no file or folder {source.path} here, and the hub gave no data set of this name "
            f'({one_line(error)}); where there is a network run python -c "from datasets import load_dataset; '
            f"load_dataset('{source.path}').save_to_disk('FOLDER')\" and set {config_key}.path to FOLDER"
        ) from error
    finally:
        datasets.config.HF_HUB_OFFLINE = was_offline
    return loaded.with_format("arrow")[:]


def _hub_answers() -> bool:
    from huggingface_hub import constants, get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=_HUB_ANSWERS_S)
    except Exception:  # the client has many errors, and two libraries for them
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_dictionary_of_text(kind))


def _is_dictionary_of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_dictionary(kind)) and _is_text(kind.value_type)


def _is_prompt(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(
        (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_struct(kind.value_type)
    )
