//! Any bytes as a tar shard, cut into chunks of any size: no panic, no hang, no member beyond the limit, and the same
//! members whatever the chunks.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use recaption_input::{tar::{Member, TarLimits, TarParser}, webdataset::{Assembler, Tail}};

const LIMIT: u64 = 1 << 16;

fn members(data: &[u8], chunk: usize) -> (Vec<Member>, String) {
    let mut parser = TarParser::new(TarLimits { max_member_bytes: LIMIT });
    let mut found = Vec::new();
    for piece in data.chunks(chunk.max(1)) {
        parser.push(Bytes::copy_from_slice(piece));
        loop {
            match parser.next_member() {
                Ok(Some(member)) => found.push(member),
                Ok(None) => break,
                Err(error) => return (found, error.to_string()),
            }
        }
    }
    let end = format!("{:?}", parser.finish());
    (found, end)
}

fuzz_target!(|data: &[u8]| {
    let Some((first, data)) = data.split_first() else { return };
    let (whole, end) = members(data, usize::MAX);
    let parts = members(data, 1 + usize::from(*first) * 7);
    assert_eq!((&whole, &end), (&parts.0, &parts.1));
    let mut assembler = Assembler::new();
    let mut samples = 0;
    for member in whole {
        assert!(member.size <= i64::MAX as u64);
        samples += u64::from(assembler.push(member).is_some());
    }
    samples += u64::from(assembler.finish(Tail::Complete).is_some());
    assert_eq!(samples, assembler.samples());
});
