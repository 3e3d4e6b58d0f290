//! Cells -> JSON.

use arrow_array::{
    Array, ArrayRef, BooleanArray, DictionaryArray, FixedSizeListArray, Float16Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, LargeListArray, ListArray, MapArray,
    RecordBatch, StructArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array,
    cast::AsArray,
    temporal_conversions::{as_date, as_datetime, as_time},
    types::{
        ArrowDictionaryKeyType, Date32Type, Date64Type, Decimal32Type, Decimal64Type, Decimal128Type,
        Decimal256Type, Int8Type, Int16Type, Int32Type, Int64Type, Time32MillisecondType, Time32SecondType,
        Time64MicrosecondType, Time64NanosecondType, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
    },
};
use arrow_schema::{DataType, TimeUnit};
use serde_json::{Map, Value};

use super::cell::text_of;

/// Returns the cells of a row that have a JSON form, by column.
pub(in crate::read) fn json_of_row(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema();
    let columns = schema.fields().iter().zip(batch.columns());
    let columns = columns.filter(|(field, _)| has_json(field.data_type()));
    columns.map(|(field, column)| (field.name().clone(), value(column, row))).collect()
}

/// Returns whether values of a type have a JSON form. Bytes have none, nor have types that hold nothing else.
pub(super) fn has_json(kind: &DataType) -> bool {
    match kind {
        DataType::Null | DataType::Boolean => true,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _) => true,
        DataType::Time32(_) | DataType::Time64(_) | DataType::Duration(_) => true,
        DataType::Decimal32(_, _) | DataType::Decimal64(_, _) => true,
        DataType::Decimal128(_, _) | DataType::Decimal256(_, _) => true,
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_json(item.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| has_json(field.data_type())),
        DataType::Map(entries, _) => has_json(entries.data_type()),
        DataType::Dictionary(_, value) => has_json(value),
        kind => kind.is_integer(),
    }
}

/// Returns the JSON form of a cell.
pub(super) fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    let any = column.as_any();
    macro_rules! number {
        ($($array:ty),*) => {
            $(if let Some(column) = any.downcast_ref::<$array>() {
                return Value::from(column.value(row));
            })*
        };
    }
    number!(Int64Array, Int32Array, UInt64Array, UInt32Array, Int16Array, UInt16Array, Int8Array, UInt8Array);
    number!(Float64Array, BooleanArray);
    // Through its shortest text: 0.3, not 0.30000001192092896.
    let shortest = |number: String| number.parse::<f64>().map_or(Value::Null, Value::from);
    if let Some(column) = any.downcast_ref::<Float32Array>() {
        return shortest(column.value(row).to_string());
    }
    if let Some(column) = any.downcast_ref::<Float16Array>() {
        return shortest(column.value(row).to_string());
    }
    if let Some(time) = time(column, row) {
        return time;
    }
    nested(column, row).unwrap_or_else(|| text_of(column, row).map_or(Value::Null, Value::from))
}

/// Returns times in ISO 8601, and decimals with all their digits.
fn time(column: &ArrayRef, row: usize) -> Option<Value> {
    macro_rules! datetime {
        ($type:ty) => {
            as_datetime::<$type>(column.as_primitive::<$type>().value(row).into())
                .map(|t| format!("{}", t.format(DATE_TIME)))
        };
    }
    macro_rules! daytime {
        ($type:ty) => {
            as_time::<$type>(column.as_primitive::<$type>().value(row).into())
                .map(|t| format!("{}", t.format("%H:%M:%S%.f")))
        };
    }
    const DATE_TIME: &str = "%Y-%m-%dT%H:%M:%S%.f";
    let text = match column.data_type() {
        DataType::Date32 => as_date::<Date32Type>(column.as_primitive::<Date32Type>().value(row).into())
            .map(|d| d.to_string()),
        DataType::Date64 => {
            as_date::<Date64Type>(column.as_primitive::<Date64Type>().value(row)).map(|d| d.to_string())
        }
        DataType::Timestamp(unit, zone) => {
            let text = match unit {
                TimeUnit::Second => datetime!(TimestampSecondType),
                TimeUnit::Millisecond => datetime!(TimestampMillisecondType),
                TimeUnit::Microsecond => datetime!(TimestampMicrosecondType),
                TimeUnit::Nanosecond => datetime!(TimestampNanosecondType),
            };
            // Stored in UTC, whatever the zone of presentation.
            text.map(|text| if zone.is_some() { text + "Z" } else { text })
        }
        DataType::Time32(TimeUnit::Second) => daytime!(Time32SecondType),
        DataType::Time32(_) => daytime!(Time32MillisecondType),
        DataType::Time64(TimeUnit::Microsecond) => daytime!(Time64MicrosecondType),
        DataType::Time64(_) => daytime!(Time64NanosecondType),
        DataType::Duration(_) => return duration(column, row),
        DataType::Decimal32(_, _) => Some(column.as_primitive::<Decimal32Type>().value_as_string(row)),
        DataType::Decimal64(_, _) => Some(column.as_primitive::<Decimal64Type>().value_as_string(row)),
        DataType::Decimal128(_, _) => Some(column.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(_, _) => Some(column.as_primitive::<Decimal256Type>().value_as_string(row)),
        _ => return None,
    };
    Some(text.map_or(Value::Null, Value::from))
}

/// Returns a duration in seconds.
fn duration(column: &ArrayRef, row: usize) -> Option<Value> {
    use arrow_array::types::{
        DurationMicrosecondType, DurationMillisecondType, DurationNanosecondType, DurationSecondType,
    };
    let DataType::Duration(unit) = column.data_type() else { return None };
    let seconds = match unit {
        TimeUnit::Second => column.as_primitive::<DurationSecondType>().value(row) as f64,
        TimeUnit::Millisecond => column.as_primitive::<DurationMillisecondType>().value(row) as f64 / 1e3,
        TimeUnit::Microsecond => column.as_primitive::<DurationMicrosecondType>().value(row) as f64 / 1e6,
        TimeUnit::Nanosecond => column.as_primitive::<DurationNanosecondType>().value(row) as f64 / 1e9,
    };
    Some(Value::from(seconds))
}

/// Returns lists, structs, maps and dictionaries.
fn nested(column: &ArrayRef, row: usize) -> Option<Value> {
    let any = column.as_any();
    let list = |items: ArrayRef| Value::Array((0..items.len()).map(|at| value(&items, at)).collect());
    if let Some(column) = any.downcast_ref::<ListArray>() {
        return Some(list(column.value(row)));
    }
    if let Some(column) = any.downcast_ref::<LargeListArray>() {
        return Some(list(column.value(row)));
    }
    if let Some(column) = any.downcast_ref::<FixedSizeListArray>() {
        return Some(list(column.value(row)));
    }
    if let Some(column) = any.downcast_ref::<StructArray>() {
        let fields = column.fields().iter().zip(column.columns());
        let fields = fields.filter(|(field, _)| has_json(field.data_type()));
        return Some(Value::Object(
            fields.map(|(field, column)| (field.name().clone(), value(column, row))).collect::<Map<_, _>>(),
        ));
    }
    if let Some(column) = any.downcast_ref::<MapArray>() {
        let entries = column.value(row);
        let (keys, values) = (entries.column(0), entries.column(1));
        let key = |at: usize| match value(keys, at) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        return Some(Value::Object(
            (0..entries.len()).map(|at| (key(at), value(values, at))).collect::<Map<_, _>>(),
        ));
    }
    dictionary(column, row)
}

fn dictionary(column: &ArrayRef, row: usize) -> Option<Value> {
    fn of<K: ArrowDictionaryKeyType>(column: &ArrayRef, row: usize) -> Option<Value> {
        let dictionary = column.as_any().downcast_ref::<DictionaryArray<K>>()?;
        dictionary.key(row).map(|at| value(dictionary.values(), at))
    }
    let DataType::Dictionary(keys, _) = column.data_type() else { return None };
    match keys.as_ref() {
        DataType::Int8 => of::<Int8Type>(column, row),
        DataType::Int16 => of::<Int16Type>(column, row),
        DataType::Int32 => of::<Int32Type>(column, row),
        DataType::Int64 => of::<Int64Type>(column, row),
        DataType::UInt8 => of::<UInt8Type>(column, row),
        DataType::UInt16 => of::<UInt16Type>(column, row),
        DataType::UInt32 => of::<UInt32Type>(column, row),
        DataType::UInt64 => of::<UInt64Type>(column, row),
        _ => None,
    }
}
