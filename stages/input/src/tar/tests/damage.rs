//! Truncated and damaged archives, and other formats.

use super::super::{
    Cut, DamageKind, HeaderError, LooksLike, MAX_RECORD_BYTES, PaxError, TarEnd, TarError, TarLimits,
    TarParser, header::BLOCK_BYTES,
};
use super::{FIXTURES, Fixture, parse, parse_in, tar_of};
use bytes::Bytes;

#[test]
fn truncated_tar_keeps_its_complete_members() {
    for fixture in FIXTURES {
        let (whole, end) = parse(fixture.tar);
        let Ok(TarEnd::Clean { offset: marker, .. }) = end else { panic!("{}: {end:?}", fixture.name) };
        let ends: Vec<u64> = fixture.listing().iter().map(|listed| listed.data_end).collect();
        for cut in 0..fixture.tar.len() {
            let kept = ends.iter().filter(|end| **end <= cut as u64).count();
            for sizes in [[usize::MAX, 1], [300, 512]] {
                let (members, end) = parse_in(&fixture.tar[..cut], &sizes, TarLimits::default());
                let at = format!("{} cut at {cut}: {end:?}", fixture.name);
                assert_eq!(members, whole[..kept], "{at}");
                match end {
                    Err(error) => {
                        assert_eq!((cut, error), (0, TarError::NotATar { looks_like: LooksLike::Empty }))
                    }
                    Ok(TarEnd::Clean { offset, .. }) => {
                        assert_eq!(offset, marker, "{at}");
                        assert!(cut as u64 >= marker + BLOCK_BYTES as u64, "{at}");
                    }
                    Ok(TarEnd::Truncated { offset, received, cut: what }) => {
                        assert!((cut as u64) < marker + BLOCK_BYTES as u64, "{at}");
                        assert_eq!(received, cut as u64, "{at}");
                        assert!(kept == 0 || offset >= ends[kept - 1], "{at}");
                        if let Cut::Member { name, got, expected, .. } = what {
                            assert_eq!((&name, offset), (&whole[kept].name, whole[kept].offset), "{at}");
                            assert!(got < expected, "{at}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn truncation_names_what_was_being_parsed() {
    let tar = Fixture::named("pax_long").tar;
    let end_at = |bytes: usize| match parse(&tar[..bytes]).1 {
        Ok(TarEnd::Truncated { offset, cut, .. }) => (offset, cut.to_string()),
        other => panic!("{other:?}"),
    };
    assert_eq!(end_at(100), (0, "a header ends after 100 of 512 bytes".to_owned()));
    let (offset, text) = end_at(600);
    assert_eq!(offset, 0);
    assert!(text.starts_with("an extended header ends after 88 of "), "{text}");
    assert_eq!(end_at(1_024), (0, "an extended header is not followed by its member".to_owned()));
    let (offset, text) = end_at(1_536 + 699);
    assert_eq!(offset, 0);
    assert!(text.ends_with("000170042.jpg\" ends after 699 of 700 bytes"), "{text}");
    assert_eq!(
        end_at(1_536 + 700),
        (2_236, "324 bytes of padding and the end marker are missing".to_owned())
    );
    assert_eq!(end_at(1_536 + 1_024), (2_560, "the end marker is missing".to_owned()));
}

#[test]
fn other_formats_are_named() {
    let page = format!("\n<!DOCTYPE HTML><title>404</title>{}", " ".repeat(BLOCK_BYTES));
    for (start, looks_like) in [
        (&b""[..], LooksLike::Empty),
        (b"\x1f\x8b\x08\0", LooksLike::Compressed("gzip")),
        (b"\x28\xb5\x2f\xfd\x04", LooksLike::Compressed("zstd")),
        (b"PK\x03\x04\x14", LooksLike::Zip),
        (b"PAR1\x15\x04", LooksLike::Parquet),
        (b"<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code>", LooksLike::Xml),
        (b"{\"error\": {\"code\": 404}}", LooksLike::Json),
        (b"version https://git-lfs.github.com/spec/v1\n", LooksLike::GitLfsPointer),
        (page.as_bytes(), LooksLike::Html),
    ] {
        let error = TarError::NotATar { looks_like };
        assert_eq!(parse(start).1, Err(error.clone()));
        if !start.is_empty() {
            let long = [start, &[b'~'; 2 * BLOCK_BYTES]].concat();
            for size in [1, 512, long.len()] {
                assert_eq!(parse_in(&long, &[size], TarLimits::default()).1, Err(error.clone()));
            }
        }
    }
    let jpeg = [b"\xff\xd8\xff\xe0".as_slice(), &[9; 1_000]].concat();
    let message = parse(&jpeg).1.unwrap_err().to_string();
    assert!(message.starts_with("it is a single image (JPEG): name its folder"), "{message}");
    let unknown = [b"\x01\x02\x03".as_slice(), &[9; 1_000]].concat();
    let message = parse(&unknown).1.unwrap_err().to_string();
    assert!(message.starts_with(r#"not a tar: it begins with "\x01\x02\x03\t"#), "{message}");

    let mut damaged = tar_of(&[("000.jpg", b"x")]);
    damaged[0] ^= 1;
    assert_eq!(parse(&damaged).1, Err(TarError::NotATar { looks_like: LooksLike::DamagedTar }));
}

#[test]
fn damaged_header_keeps_the_members_before() {
    let mut tar = tar_of(&[("000.jpg", &[1; 600]), ("001.jpg", b"x"), ("002.jpg", b"y")]);
    tar[1_536 + 3] ^= 0x10;
    for size in [1, 700, tar.len()] {
        let (members, end) = parse_in(&tar, &[size], TarLimits::default());
        assert_eq!(members.len(), 1);
        let error = end.unwrap_err();
        assert!(matches!(
            error,
            TarError::Damaged { offset: 1_536, kind: DamageKind::Header(HeaderError::Checksum { .. }) }
        ));
        assert!(error.to_string().starts_with("damaged at byte 1536: the header's checksum is "), "{error}");
    }
}

/// Returns a header of the `tar` crate with these fields and a valid checksum.
fn header(type_flag: u8, size_field: [u8; 12]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_path("000.jpg").unwrap();
    header.as_old_mut().linkflag = [type_flag];
    header.as_old_mut().size = size_field;
    header.set_cksum();
    header.as_bytes().to_vec()
}

fn damage_of(tar: &[u8]) -> (u64, DamageKind) {
    match parse(tar).1 {
        Err(TarError::Damaged { offset, kind: fault }) => (offset, fault),
        other => panic!("{other:?}"),
    }
}

#[test]
fn invalid_sizes_are_errors() {
    for size in [
        *b"0000000008\0\0",
        *b"-0000000001\0",
        *b"junk       \0",
        [0xff; 12],
        [0x80, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ] {
        let (offset, damage) = damage_of(&header(b'0', size));
        assert_eq!(offset, 0);
        assert!(matches!(damage, DamageKind::Header(HeaderError::Size { .. })), "{damage:?}");
    }
}

#[test]
fn false_sizes_reserve_no_memory() {
    let (record, member) =
        (*b"00004000001\0", [0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
    for flag in *b"LKxXg" {
        assert_eq!(
            damage_of(&header(flag, record)),
            (0, DamageKind::RecordTooLarge { size: MAX_RECORD_BYTES + 1 })
        );
    }
    let mut parser = TarParser::new(TarLimits { max_member_bytes: u64::MAX });
    parser.push(Bytes::from(header(b'0', member)));
    assert_eq!(parser.next_member(), Ok(None));
    parser.push(Bytes::from_static(&[1; 100]));
    assert_eq!(parser.next_member(), Ok(None));
    assert!(parser.bytes_held() <= 16 << 20, "{}", parser.bytes_held());
    assert!(matches!(parser.finish(), Ok(TarEnd::Truncated { cut: Cut::Member { got: 100, .. }, .. })));
}

fn with_pax(records: &[u8]) -> Vec<u8> {
    let size = format!("{:011o}\0", records.len());
    let padding = vec![0; records.len().next_multiple_of(BLOCK_BYTES) - records.len()];
    let header = header(b'x', size.as_bytes().try_into().unwrap());
    [header, records.to_vec(), padding, tar_of(&[("000.jpg", b"x")])].concat()
}

#[test]
fn invalid_pax_records_are_errors() {
    let name = |records: &[u8]| parse(&with_pax(records)).0[0].name.clone();
    assert_eq!(name(b"12 path=a/b\n"), "a/b");
    assert_eq!(name(b"12 path=a/b\n11 path=cd\n"), "cd", "the last counts");
    assert_eq!(name(b"8 path=\n"), "000.jpg", "an empty value leaves the header's");
    assert_eq!(name(b"14 path=ab\0cd\n"), "ab", "cut at NUL");
    assert_eq!(name(b"13 path=a=b=\n\0\0\0"), "a=b=", "NULs after the records are padding");
    assert_eq!(name(b"12 path=\xff\xfeb\n"), "\\xFF\\xFEb");

    for records in [
        &b"path=a\n"[..],
        b"13 path=a/b\n",
        b"11 path=a/b\n",
        b"0 path=a\n",
        b"99999999999999999999 path=a\n",
        b"5 path",
        b"9 noequal\n",
        b"12 path=a/b\nx",
    ] {
        let (offset, damage) = damage_of(&with_pax(records));
        assert!(
            matches!(damage, DamageKind::Pax(PaxError::Malformed { .. })),
            "{damage:?} for {}",
            records.escape_ascii()
        );
        assert_eq!(offset, 0);
    }
    for records in [&b"11 size=-1\n"[..], b"11 size=x1\n", b"28 size=9223372036854775808\n"] {
        let (_, damage) = damage_of(&with_pax(records));
        assert!(
            matches!(damage, DamageKind::Pax(PaxError::Size { .. })),
            "{damage:?} for {}",
            records.escape_ascii()
        );
    }
}

#[test]
fn extended_header_before_the_end_marker_is_damage() {
    let tar = with_pax(b"12 path=a/b\n");
    let tar = [&tar[..2 * BLOCK_BYTES], &[0; 2 * BLOCK_BYTES]].concat();
    assert_eq!(damage_of(&tar), (0, DamageKind::RecordWithoutMember));
}

#[test]
fn finishing_with_members_left_is_an_error() {
    let tar = Bytes::from(tar_of(&[("000.jpg", b"x")]));
    let mut parser = TarParser::new(TarLimits::default());
    parser.push(tar.clone());
    assert_eq!(parser.finish(), Err(TarError::Undrained { bytes: tar.len() as u64 }));
}
