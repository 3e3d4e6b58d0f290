//! Rows of a table, by its footer.

use recaption_messages::ReadError;

use super::sample_count::{CountMethod, SampleCount};
use crate::read::{context::ReadContext, table};

/// Counts the rows of a table of images or URLs.
pub(super) async fn count(context: ReadContext<'_>) -> Result<SampleCount, ReadError> {
    let rows = table::count_rows(context).await?;
    let method = if rows.has_images { CountMethod::ParquetFooter } else { CountMethod::ListRows };
    Ok(SampleCount { row_group_bytes: rows.largest_group_bytes, ..SampleCount::exact(rows.rows, method) })
}
