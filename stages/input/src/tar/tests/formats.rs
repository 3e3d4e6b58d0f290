//! All formats, in chunks of every size.

use sha2::{Digest, Sha256};

use super::super::{
    EndMarker, Member, MemberData, MemberKind, TarEnd, TarLimits, TarParser, Trailing, header::BLOCK_BYTES,
};
use super::{FIXTURES, Fixture, Listed, Seeded, bytes_of, parse, parse_in, tar_of};
use bytes::Bytes;

/// Compares a member with its line of a listing, without offset and end.
fn assert_is_listed(fixture: &str, member: &Member, listed: &Listed<'_>) {
    let (kind, link) = match &member.kind {
        MemberKind::File(MemberData::Bytes(_)) => ("file", "-"),
        MemberKind::File(MemberData::Link { hard: true, target }) => ("hard", target.as_str()),
        MemberKind::File(MemberData::Link { hard: false, target }) => ("soft", target.as_str()),
        MemberKind::File(MemberData::Sparse) => ("sparse", "-"),
        MemberKind::File(MemberData::TooLarge { .. }) => ("too large", "-"),
        MemberKind::Directory => ("directory", "-"),
        MemberKind::Other { .. } => ("other", "-"),
    };
    let digest = match &member.kind {
        MemberKind::File(MemberData::Bytes(bytes)) => {
            assert_eq!(bytes.len() as u64, member.size, "{fixture}: {}", member.name);
            Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
        }
        _ => "-".to_owned(),
    };
    let seen = Listed { offset: member.offset, kind, digest: &digest, link, name: &member.name, ..*listed };
    assert_eq!(seen, *listed, "{fixture}");
}

#[test]
fn fixtures_parse_as_in_python() {
    for fixture in FIXTURES {
        let (members, end) = parse(fixture.tar);
        let listing = fixture.listing();
        for (member, listed) in members.iter().zip(&listing) {
            assert_is_listed(fixture.name, member, listed);
        }
        assert_eq!(members.len(), listing.len(), "{}", fixture.name);
        assert!(matches!(end, Ok(TarEnd::Clean { .. })), "{}: {end:?}", fixture.name);
    }
}

#[test]
fn chunk_size_does_not_change_members() {
    for fixture in FIXTURES {
        let whole = parse(fixture.tar);
        // Each size about a block's, where boundaries fall everywhere; then ever larger ones.
        let sizes = (1..3 * BLOCK_BYTES).chain((3 * BLOCK_BYTES..=fixture.tar.len()).step_by(101));
        for size in sizes {
            let parsed = parse_in(fixture.tar, &[size], TarLimits::default());
            assert_eq!(parsed, whole, "{} in chunks of {size}", fixture.name);
        }
    }
}

#[test]
fn member_inside_one_chunk_is_not_copied() {
    let chunk = Bytes::from(tar_of(&[("000.jpg", &[7; 10_000])]));
    let mut parser = TarParser::new(TarLimits::default());
    parser.push(chunk.clone());
    let member = parser.next_member().unwrap().unwrap();
    assert_eq!(bytes_of(&member).as_ptr(), chunk[BLOCK_BYTES..].as_ptr());
}

#[test]
fn archives_of_the_tar_crate_parse() {
    let mut random = Seeded(1);
    for _ in 0..50 {
        let files: Vec<(String, Vec<u8>)> = (0..random.below(8))
            .map(|at| {
                let name = format!("{}/{at:03}.jpg", "n".repeat(1 + random.below(300)));
                (name, (0..random.below(3_000)).map(|_| random.next() as u8).collect())
            })
            .collect();
        let given: Vec<_> = files.iter().map(|(name, data)| (name.as_str(), data.as_slice())).collect();
        let sizes = [1 + random.below(600), 1 + random.below(5_000), 1 + random.below(5_000)];
        let (members, end) = parse_in(&tar_of(&given), &sizes, TarLimits::default());
        let read: Vec<_> =
            members.iter().map(|member| (member.name.as_str(), &bytes_of(member)[..])).collect();
        assert_eq!(read, given);
        assert!(
            matches!(end, Ok(TarEnd::Clean { marker: EndMarker::TwoBlocks, trailing: None, .. })),
            "{end:?}"
        );
    }
}

#[test]
fn members_over_the_limit_are_skipped() {
    let tar =
        tar_of(&[("a.jpg", &[1; 1_000]), ("b.jpg", &[2; 1_001]), ("c.jpg", &[3; 5_000]), ("d.jpg", &[4; 5])]);
    for size in [1, 511, 512, 513, 4_096, tar.len()] {
        let (members, end) = parse_in(&tar, &[size], TarLimits { max_member_bytes: 1_000 });
        let data: Vec<_> = members.into_iter().map(|member| member.kind).collect();
        let file = MemberKind::File;
        let bytes = |byte, len| file(MemberData::Bytes(Bytes::from(vec![byte; len])));
        assert_eq!(
            data,
            [
                bytes(1, 1_000),
                file(MemberData::TooLarge { size: 1_001 }),
                file(MemberData::TooLarge { size: 5_000 }),
                bytes(4, 5)
            ]
        );
        assert!(end.is_ok());
    }
}

#[test]
fn member_beyond_the_octal_range_is_skipped() {
    const SIZE: u64 = 9 << 30;
    let mut header = tar::Header::new_gnu();
    header.set_path("huge.jpg").unwrap();
    header.set_size(SIZE);
    header.set_cksum();
    let mut parser = TarParser::new(TarLimits::default());
    parser.push(Bytes::copy_from_slice(header.as_bytes()));
    let chunk = Bytes::from(vec![0; 64 << 20]);
    for _ in 0..SIZE / chunk.len() as u64 {
        assert_eq!(parser.next_member(), Ok(None));
        assert!(parser.bytes_held() <= chunk.len());
        parser.push(chunk.clone());
    }
    let member = parser.next_member().unwrap().unwrap();
    assert_eq!(member.kind, MemberKind::File(MemberData::TooLarge { size: SIZE }));
    assert_eq!(member.size, SIZE);
    parser.push(Bytes::from(tar_of(&[("small.jpg", b"x")])));
    assert_eq!(parser.next_member().unwrap().unwrap().name, "small.jpg");
}

#[test]
fn first_zero_block_ends_the_archive() {
    let (members, end) = parse(Fixture::named("concatenated").tar);
    assert_eq!(members.len(), 1);
    let trailing = Some(Trailing { offset: 1_536, is_tar: true });
    assert_eq!(end, Ok(TarEnd::Clean { offset: 1_024, marker: EndMarker::OneBlock, trailing }));

    let (_, end) = parse(Fixture::named("one_zero_block").tar);
    assert_eq!(end, Ok(TarEnd::Clean { offset: 1_024, marker: EndMarker::OneBlock, trailing: None }));

    let both = [tar_of(&[("a.jpg", b"1")]), tar_of(&[("b.jpg", b"2")])].concat();
    let (members, end) = parse(&both);
    assert_eq!(members.len(), 1);
    let trailing = Some(Trailing { offset: 2_048, is_tar: true });
    assert_eq!(end, Ok(TarEnd::Clean { offset: 1_024, marker: EndMarker::TwoBlocks, trailing }));
}

#[test]
fn bytes_after_the_end_marker_are_reported() {
    let tar = tar_of(&[("a.jpg", b"1")]);
    let clean = |trailing| Ok(TarEnd::Clean { offset: 1_024, marker: EndMarker::TwoBlocks, trailing });
    let end = tar.len() as u64;
    let garbage = |offset| Some(Trailing { offset, is_tar: false });
    for (more, trailing) in [
        (vec![0; 1], None),
        (vec![0; 20_000], None),
        (vec![1; 1], garbage(end)),
        ([vec![0; 512], vec![1; 700]].concat(), garbage(end + 512)),
        ([vec![0; 600], vec![1; 3]].concat(), garbage(end + 512)),
    ] {
        let tar = [tar.clone(), more].concat();
        for size in [1, 100, 512, tar.len()] {
            let (members, end) = parse_in(&tar, &[size], TarLimits::default());
            assert_eq!((members.len(), end), (1, clean(trailing)));
        }
    }
}

#[test]
fn archive_of_zeros_is_empty() {
    let (members, end) = parse(&[0; 10_240]);
    assert_eq!(members, []);
    assert_eq!(end, Ok(TarEnd::Clean { offset: 0, marker: EndMarker::TwoBlocks, trailing: None }));
}
