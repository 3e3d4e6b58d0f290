//! Tests of the tar parser, against what Python's tarfile and the `tar` crate write and read.
//!
//! The fixtures, and the lists of what tarfile sees in them, are made by
//! `tests/data/tar/make_fixtures.py`.

mod damage;
mod formats;
mod fuzz;

use bytes::Bytes;

use super::{Member, MemberData, MemberKind, TarEnd, TarError, TarLimits, TarParser};

macro_rules! fixtures {
    ($($name:literal)*) => {
        [$(Fixture {
            name: $name,
            tar: include_bytes!(concat!("../../../../../tests/data/tar/", $name, ".tar")),
            listing: include_str!(concat!("../../../../../tests/data/tar/", $name, ".tsv")),
        }),*]
    };
}

pub(super) struct Fixture {
    pub(super) name: &'static str,
    pub(super) tar: &'static [u8],
    listing: &'static str,
}

pub(super) const FIXTURES: [Fixture; 17] = fixtures!(
    "ustar_prefix" "gnu_long" "pax_long" "pax_global" "not_utf8" "kinds" "v7" "base_256" "signed_sum"
    "pax_size" "hard_link_size" "unknown_type" "sparse_gnu" "sparse_pax" "one_zero_block" "concatenated" "zeros"
);

/// A line of a listing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listed<'a> {
    pub(super) offset: u64,
    pub(super) data_end: u64,
    pub(super) kind: &'a str,
    pub(super) digest: &'a str,
    pub(super) link: &'a str,
    pub(super) name: &'a str,
}

impl Fixture {
    pub(super) fn named(name: &str) -> &'static Self {
        const { &FIXTURES }.iter().find(|fixture| fixture.name == name).expect("a fixture of this name")
    }

    pub(super) fn listing(&self) -> Vec<Listed<'static>> {
        let row = |line: &'static str| {
            let mut columns = line.split('\t');
            let mut column = || columns.next().expect("six columns");
            Listed {
                offset: column().parse().expect("an offset"),
                data_end: column().parse().expect("an offset"),
                kind: column(),
                digest: column(),
                link: column(),
                name: column(),
            }
        };
        self.listing.lines().map(row).collect()
    }
}

/// Parses an archive in chunks of the given sizes, of which the last repeats.
pub(super) fn parse_in(
    tar: &[u8],
    sizes: &[usize],
    limits: TarLimits,
) -> (Vec<Member>, Result<TarEnd, TarError>) {
    let mut parser = TarParser::new(limits);
    let (mut members, mut rest, mut turn) = (Vec::new(), Bytes::copy_from_slice(tar), 0);
    while !rest.is_empty() {
        let size = sizes[turn.min(sizes.len() - 1)].clamp(1, rest.len());
        turn += 1;
        parser.push(rest.split_to(size));
        loop {
            match parser.next_member() {
                Ok(Some(member)) => members.push(member),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(parser.next_member(), Err(error.clone()), "an error is final");
                    assert_eq!(parser.finish(), Err(error.clone()), "an error is final");
                    return (members, Err(error));
                }
            }
        }
        assert_eq!(parser.offset(), parser.received(), "with no member left, all input was taken");
    }
    let end = parser.finish();
    (members, end)
}

pub(super) fn parse(tar: &[u8]) -> (Vec<Member>, Result<TarEnd, TarError>) {
    parse_in(tar, &[usize::MAX], TarLimits::default())
}

pub(super) fn bytes_of(member: &Member) -> &Bytes {
    match &member.kind {
        MemberKind::File(MemberData::Bytes(bytes)) => bytes,
        other => panic!("{} is no file with bytes: {other:?}", member.name),
    }
}

/// A seeded generator (SplitMix64, Steele et al. 2014), for reproducible failures.
pub(crate) struct Seeded(pub(crate) u64);

impl Seeded {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number in 0..end.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// Returns an archive by the `tar` crate, with names of any length.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, data) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, *data).expect("appends to memory");
    }
    builder.into_inner().expect("finishes in memory")
}
