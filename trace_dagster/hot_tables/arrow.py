"""Arrow tables of anyone's making, as hot tables take them."""

import pyarrow as pa

__all__ = ["normalised"]


def normalised(rows: pa.Table) -> pa.Table:
    """Return rows with plain types: no dictionaries, views or fixed widths; and without all-null columns.

    A column in which nothing is known has no type either: left out, it is null in the table, whatever it is
    there.
    """
    for at in reversed(range(rows.num_columns)):
        field = rows.schema.field(at)
        kind = _plain(field.type)
        if pa.types.is_null(kind):
            rows = rows.remove_column(at)
        elif kind != field.type:
            rows = rows.set_column(at, field.name, rows.column(at).cast(kind))
    return rows


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_fixed_size_binary(kind) or pa.types.is_binary_view(kind):
        return pa.large_binary()
    if pa.types.is_string_view(kind):
        return pa.large_string()
    return kind
