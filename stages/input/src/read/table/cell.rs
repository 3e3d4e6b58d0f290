//! Values of single cells: bytes and text of any Arrow layout.

use arrow_array::{Array, ArrayRef, BinaryArray, StringArray, cast::AsArray};
use arrow_schema::DataType;
use bytes::Bytes;

/// Returns whether a type holds bytes.
pub(super) fn is_bytes(kind: &DataType) -> bool {
    matches!(kind, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// Returns whether a type holds text. Bytes count too: writers without logical types store strings as bytes.
pub(super) fn is_text(kind: &DataType) -> bool {
    matches!(kind, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) || is_bytes(kind)
}

/// Returns the bytes of a cell; `None` if it is null.
pub(super) fn bytes_of(column: &ArrayRef, row: usize) -> Option<Bytes> {
    if column.is_null(row) {
        return None;
    }
    // Copied: a slice would keep the whole batch alive.
    let any = column.as_any();
    let bytes = match any.downcast_ref::<BinaryArray>() {
        Some(column) => column.value(row),
        None => match column.data_type() {
            DataType::LargeBinary => column.as_binary::<i64>().value(row),
            DataType::BinaryView => column.as_binary_view().value(row),
            _ => return None,
        },
    };
    Some(Bytes::copy_from_slice(bytes))
}

/// Returns the text of a cell, with U+FFFD where it is not UTF-8; `None` if it is null.
pub(super) fn text_of(column: &ArrayRef, row: usize) -> Option<String> {
    if column.is_null(row) {
        return None;
    }
    if let Some(column) = column.as_any().downcast_ref::<StringArray>() {
        return Some(column.value(row).to_owned());
    }
    match column.data_type() {
        DataType::LargeUtf8 => Some(column.as_string::<i64>().value(row).to_owned()),
        DataType::Utf8View => Some(column.as_string_view().value(row).to_owned()),
        _ => bytes_of(column, row).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    }
}
