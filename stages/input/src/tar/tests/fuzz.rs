//! Seeded mutations: no panic, no endless loop, bounded memory.

use super::super::{MAX_RECORD_BYTES, TarLimits, TarParser, header::BLOCK_BYTES};
use super::{FIXTURES, Seeded};
use bytes::Bytes;

const ROUNDS: usize = 20_000;
const MAX_MEMBER: u64 = 2_000;
const MAX_CHUNK: usize = 3_000;

/// Corrects the checksum of every block that looks like a header, so that mutations pass it.
fn mend_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(BLOCK_BYTES) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
}

fn mutate(tar: &mut Vec<u8>, random: &mut Seeded) {
    for _ in 0..1 + random.below(6) {
        let at = random.below(tar.len());
        let block = at / BLOCK_BYTES * BLOCK_BYTES;
        match random.below(6) {
            0 => tar[at] = random.next() as u8,
            1 => tar[at] ^= 1 << random.below(8),
            // The fields that decide: size, type, and the start of records.
            2 => tar[block + 124 + random.below(12)] = b"01234567\0 \x80\xff"[random.below(12)],
            3 => tar[block + 156] = b"0123456789LKSxXgVDM\0\xff"[random.below(21)],
            4 => tar[block + random.below(12)] = b"0123456789 =\n"[random.below(13)],
            _ => {
                let from = random.below(tar.len() / BLOCK_BYTES) * BLOCK_BYTES;
                tar.copy_within(from..from + BLOCK_BYTES, block);
            }
        }
    }
    if random.below(8) == 0 {
        let end = 1 + random.below(tar.len());
        tar.truncate(end);
    }
}

#[test]
fn mutated_archives_never_panic_or_loop() {
    let mut random = Seeded(20);
    for round in 0..ROUNDS {
        let mut tar = FIXTURES[random.below(FIXTURES.len())].tar.to_vec();
        mutate(&mut tar, &mut random);
        if round % 4 != 0 {
            mend_checksums(&mut tar);
        }
        let headers = tar.len() / BLOCK_BYTES;
        let (mut rest, mut members) = (Bytes::from(tar), 0);
        let mut parser = TarParser::new(TarLimits { max_member_bytes: MAX_MEMBER });
        'input: while !rest.is_empty() {
            let chunk = rest.split_to((1 + random.below(MAX_CHUNK)).min(rest.len()));
            parser.push(chunk);
            loop {
                let held = parser.bytes_held() as u64;
                assert!(held <= MAX_RECORD_BYTES + MAX_CHUNK as u64, "round {round}: {held} bytes held");
                match parser.next_member() {
                    Ok(Some(_)) => members += 1,
                    Ok(None) => break,
                    Err(_) => break 'input,
                }
                assert!(members <= headers, "round {round}: more members than blocks");
            }
        }
        // How it ended is free; that it says so is not.
        let _ = parser.finish();
    }
}
