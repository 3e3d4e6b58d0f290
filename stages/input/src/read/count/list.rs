//! Rows of a list in text, compressed or not.

use recaption_messages::ReadError;

use super::{
    sample_count::{CountMethod, SampleCount, extrapolate},
    start::open_start,
};
use crate::{
    format::ListKind,
    lists::ListParser,
    read::{context::ReadContext, decompress::Decompressor, open, sniff},
};

/// Bytes of a list that are read. The rows of a longer one are estimated.
const MAX_BYTES: u64 = 256 << 20;

/// Counts the rows of a list, or estimates them from its beginning.
pub(super) async fn count(context: ReadContext<'_>, kind: ListKind) -> Result<SampleCount, ReadError> {
    let settings = context.settings;
    let parser = ListParser::new(kind, settings.columns.clone());
    let mut parser = parser.with_setting_names(settings.setting_names);
    let (mut rows, mut bytes_read) = (0_u64, 0_u64);
    let failed = |e: String| context.data_error(&e);
    let unpack_error = |e: std::io::Error| failed(format!("the packed list cannot be unpacked: {e}"));
    let mut pieces = open_start(context, MAX_BYTES).await?;
    let mut stream: Option<Decompressor> = None;
    while bytes_read < MAX_BYTES
        && let Some(mut piece) = open::next(&mut pieces, context).await?
    {
        bytes_read += piece.len() as u64;
        let stream = match &mut stream {
            Some(stream) => stream,
            none => {
                let found = Decompressor::detect(&piece).map_err(unpack_error)?;
                if !found.is_compressed()
                    && let Some(what) = sniff::not_a_list(&piece, kind)
                {
                    return Err(context.data_error(&what));
                }
                none.insert(found)
            }
        };
        while !piece.is_empty() {
            let bytes = stream.next(&mut piece).map_err(unpack_error)?;
            parser.push_into(&bytes, &mut |_, _| rows += 1).map_err(failed)?;
        }
        tokio::task::yield_now().await;
    }
    if bytes_read < context.shard.size() {
        let size = context.shard.size();
        return Ok(SampleCount::estimate(extrapolate(rows, bytes_read, size), CountMethod::ListRows));
    }
    while let Some(stream) = &mut stream {
        let bytes = stream.finish().map_err(unpack_error)?;
        if bytes.is_empty() {
            break;
        }
        parser.push_into(&bytes, &mut |_, _| rows += 1).map_err(failed)?;
    }
    parser.finish_into(&mut |_, _| rows += 1).map_err(failed)?;
    Ok(SampleCount::exact(rows, CountMethod::ListRows))
}
