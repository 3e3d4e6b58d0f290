//! Tests of the grouping, against webdataset's own expressions and on seeded archives.

use bytes::Bytes;

use super::{
    Assembler, IgnoredMembers, MAX_LISTED_SUFFIXES, MAX_SIDECAR_BYTES, NameClass, Note, RawSample, Tail,
    split_name,
};
use crate::tar::{Member, MemberData, MemberKind};

/// Names, and webdataset's key and suffix for them; made by `make_fixtures.py` beside it.
const NAMES: &str = include_str!("../../../../tests/data/tar/names.tsv");

fn member(name: &str, kind: MemberKind) -> Member {
    Member { name: name.to_owned(), offset: 0, size: 0, kind }
}

fn file(name: &str, data: &str) -> Member {
    member(name, MemberKind::File(MemberData::Bytes(Bytes::copy_from_slice(data.as_bytes()))))
}

fn link(name: &str) -> Member {
    member(name, MemberKind::File(MemberData::Link { hard: false, target: "x.jpg".to_owned() }))
}

fn assemble(members: impl IntoIterator<Item = Member>) -> (Vec<RawSample>, IgnoredMembers) {
    let mut assembler = Assembler::new();
    let mut samples: Vec<_> = members.into_iter().filter_map(|member| assembler.push(member)).collect();
    samples.extend(assembler.finish(Tail::Complete));
    assert_eq!(assembler.finish(Tail::Complete), None, "the last sample comes once");
    assert_eq!(assembler.samples(), samples.len() as u64);
    assert_eq!(assembler.bytes_held(), 0);
    (samples, assembler.ignored())
}

fn one(members: impl IntoIterator<Item = Member>) -> RawSample {
    let (mut samples, _) = assemble(members);
    assert_eq!(samples.len(), 1, "{samples:?}");
    samples.remove(0)
}

fn keys(samples: &[RawSample]) -> Vec<(u64, &str, bool)> {
    samples.iter().map(|sample| (sample.index, sample.key.as_str(), sample.is_duplicate)).collect()
}

fn image_of(sample: &RawSample) -> (&str, &[u8]) {
    let image = sample.image.as_ref().expect("an image");
    let MemberData::Bytes(bytes) = &image.data else { panic!("no bytes: {image:?}") };
    (&image.suffix, bytes)
}

#[test]
fn names_split_as_in_webdataset() {
    for line in NAMES.lines() {
        let columns: Vec<_> = line.split('\t').collect();
        let [name, class, key, suffix] = columns[..] else { panic!("four columns: {line}") };
        let hidden = name.rsplit('/').next().is_some_and(|base| base.starts_with('.'));
        let expected = match class {
            "meta" => NameClass::Meta,
            // Here webdataset drops the file, or takes the directory for the key.
            _ if hidden => NameClass::Hidden,
            // Here it drops the file.
            "none" => NameClass::Part { key: name, suffix: String::new() },
            _ => NameClass::Part { key, suffix: suffix.to_owned() },
        };
        assert_eq!(split_name(name), expected, "{name:?}");
    }
}

#[test]
fn adjacent_members_with_one_key_are_one_sample() {
    let (samples, ignored) = assemble([
        member("a", MemberKind::Directory),
        file("a/000.JPG", "image 0"),
        file("a/000.txt", " a caption\n"),
        file("a/000.json", "{}"),
        file("a/001.txt", "text only"),
        file("b/000.png", "image 1"),
    ]);
    assert_eq!(keys(&samples), [(0, "a/000", false), (1, "a/001", false), (2, "b/000", false)]);
    assert_eq!(image_of(&samples[0]), ("jpg", &b"image 0"[..]));
    assert_eq!(samples[0].caption.as_deref(), Some(" a caption\n"), "verbatim");
    assert_eq!(samples[0].json.as_deref(), Some("{}"));
    assert_eq!((samples[0].is_truncated, samples[0].other_count, samples[0].notes.len()), (false, 0, 0));
    assert_eq!(samples[1].image, None);
    assert_eq!(samples[1].caption.as_deref(), Some("text only"));
    assert_eq!(ignored, IgnoredMembers { directories: 1, ..Default::default() });
}

#[test]
fn ignored_members_are_counted_and_end_no_sample() {
    let (samples, ignored) = assemble([
        file("__meta__/info.json", "{}"),
        file("000.jpg", "image"),
        file("._000.jpg", "finder"),
        file("__x__", "more"),
        member("dir", MemberKind::Directory),
        member("000.fifo", MemberKind::Other { type_flag: b'6' }),
        file("000.txt", "caption"),
        file(".DS_Store", ""),
    ]);
    assert_eq!(keys(&samples), [(0, "000", false)]);
    assert_eq!(samples[0].caption.as_deref(), Some("caption"));
    assert_eq!(ignored, IgnoredMembers { directories: 1, meta: 2, hidden: 2, other: 1 });
    assert_eq!(ignored.total(), 6);
}

#[test]
fn file_without_a_dot_is_a_separate_sample() {
    let (samples, _) =
        assemble([file("README", "x"), file("000.jpg", "image"), file("../../etc/passwd", "x")]);
    assert_eq!(keys(&samples), [(0, "README", false), (1, "000", false), (2, "../../etc/passwd", false)]);
    assert_eq!(samples[2].image, None);
    assert_eq!(samples[2].other_suffixes, [""]);
}

#[test]
fn repeated_key_is_marked() {
    let (samples, _) = assemble([
        file("000.jpg", "first"),
        file("000.txt", "first"),
        file("000.JPG", "second"),
        file("001.jpg", "x"),
        file("000.jpg", "third"),
    ]);
    assert_eq!(keys(&samples), [(0, "000", false), (1, "000", true), (2, "001", false), (3, "000", true)]);
    assert_eq!(image_of(&samples[0]).1, b"first");
    assert_eq!(samples[0].caption.as_deref(), Some("first"));
    assert_eq!((image_of(&samples[1]).1, &samples[1].caption), (&b"second"[..], &None));
}

#[test]
fn best_ranked_image_is_chosen() {
    for (suffixes, image, others) in [
        (&["jpg"][..], "jpg", &[][..]),
        (&["v1.jpg"], "v1.jpg", &[]),
        (&["v1.jpg", "png"], "png", &["v1.jpg"]),
        (&["png", "v1.jpg", "jpg"], "png", &["v1.jpg", "jpg"]),
        (&["heic", "cls", "v1.jpg", "webp", "a.b"], "webp", &["heic", "cls", "v1.jpg", "a.b"]),
        (&["avif", "raw.heic"], "avif", &["raw.heic"]),
        (&["small.heic"], "small.heic", &[]),
        (&["jpg.bak", "tiff"], "tiff", &["jpg.bak"]),
    ] {
        let sample = one(suffixes.iter().map(|suffix| file(&format!("photo.{suffix}"), suffix)));
        assert_eq!(image_of(&sample), (image, image.as_bytes()), "{suffixes:?}");
        assert_eq!(sample.other_suffixes, others, "{suffixes:?}");
        assert_eq!(sample.other_count, others.len() as u64);
        let supported = !image.ends_with("avif") && !image.ends_with("heic");
        assert_eq!(sample.image.unwrap().is_supported_format(), supported, "{image}");
    }
}

#[test]
fn best_ranked_caption_is_chosen() {
    for (suffixes, caption) in [
        (&["caption", "text", "txt"][..], "txt"),
        (&["v1.txt", "caption", "text"], "text"),
        (&["v1.caption", "v1.txt", "v2.txt"], "v1.txt"),
        (&["v1.txt", "caption"], "caption"),
    ] {
        let sample = one(suffixes.iter().map(|suffix| file(&format!("a.{suffix}"), suffix)));
        assert_eq!(sample.caption.as_deref(), Some(caption), "{suffixes:?}");
        let others: Vec<_> = suffixes.iter().filter(|suffix| **suffix != caption).collect();
        assert_eq!(sample.other_suffixes.iter().collect::<Vec<_>>(), others);
    }
    let sample = one([file("a.meta.json", "1"), file("a.json", "2"), file("a.txt.json", "3")]);
    assert_eq!(sample.json.as_deref(), Some("2"));
}

#[test]
fn captions_are_decoded_lossily() {
    let latin = MemberData::Bytes(Bytes::from_static(b"caf\xe9"));
    let sample = one([member("a.txt", MemberKind::File(latin))]);
    assert_eq!(sample.caption.as_deref(), Some("caf\u{fffd}"));
}

#[test]
fn links_and_sparse_files_have_a_suffix_and_no_bytes() {
    let sample = one([link("a.jpg"), link("a.txt"), file("a.caption", "words")]);
    let image = sample.image.as_ref().unwrap();
    let why = image.data.why_no_bytes().unwrap();
    assert_eq!(why, "the member is a symbolic link to \"x.jpg\", without bytes of its own");
    assert_eq!(sample.caption.as_deref(), Some("words"), "a caption with bytes is better than one without");
    assert_eq!(sample.other_suffixes, ["txt"]);
    assert_eq!(sample.notes, [Note::SidecarWithoutBytes { suffix: "txt".to_owned(), why }]);

    let sample = one([member("a.jpg", MemberKind::File(MemberData::Sparse))]);
    assert_eq!(sample.image.unwrap().data, MemberData::Sparse);
}

#[test]
fn oversized_members_are_noted() {
    let size = MAX_SIDECAR_BYTES + 1;
    let bytes = MemberKind::File(MemberData::Bytes(Bytes::from(vec![b' '; size as usize])));
    let large = |size| MemberKind::File(MemberData::TooLarge { size });
    let sample =
        one([member("a.txt", bytes), member("a.json", large(1 << 40)), member("a.jpg", large(1 << 41))]);
    assert_eq!((&sample.caption, &sample.json), (&None, &None));
    assert_eq!(sample.image.as_ref().unwrap().data, MemberData::TooLarge { size: 1 << 41 });
    let notes: Vec<_> = sample.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        [
            "member .txt has 16777217 bytes, more than the limit, and was left out",
            "member .json has 1099511627776 bytes, more than the limit, and was left out"
        ]
    );
    assert!(sample.bytes_held() < 100);
}

#[test]
fn bytes_held_counts_what_is_kept() {
    let mut assembler = Assembler::new();
    assert_eq!(assembler.bytes_held(), 0);
    assert_eq!(assembler.push(file("k.jpg", &"i".repeat(1_000))), None);
    assert_eq!(assembler.push(file("k.mp4", &"v".repeat(9_000))), None);
    assert_eq!(assembler.push(file("k.txt", &"c".repeat(100))), None);
    assert_eq!(assembler.bytes_held(), 1 + 1_000 + 100 + "jpgmp4txt".len());
    let sample = assembler.push(file("l.jpg", "i")).unwrap();
    assert_eq!(sample.bytes_held(), 1 + 1_000 + 100 + "jpgmp4".len());
    assert_eq!(assembler.bytes_held(), 1 + 1 + "jpg".len());
}

#[test]
fn damaged_tail_marks_the_open_sample_as_truncated() {
    for (cut_file, cut) in [
        (None, true),
        (Some("000.json"), true),
        (Some("._000.json"), true),
        (Some("001.jpg"), false),
        (Some("000.txt"), false),
    ] {
        let mut assembler = Assembler::new();
        assert_eq!(assembler.push(file("000.jpg", "image")), None);
        assert_eq!(assembler.push(file("000.txt", "caption")), None);
        let sample = assembler.finish(Tail::Damaged { cut_file }).unwrap();
        assert_eq!(sample.is_truncated, cut, "{cut_file:?}");
    }
    assert_eq!(Assembler::new().finish(Tail::Damaged { cut_file: None }), None);
}

#[test]
fn sample_of_many_members_is_bounded() {
    const MEMBERS: u64 = 100_000;
    let sample = one((0..MEMBERS).map(|at| file(&format!("a.{at}"), "x")));
    assert_eq!(sample.other_count, MEMBERS);
    assert_eq!(sample.other_suffixes.len(), MAX_LISTED_SUFFIXES);
}

/// Every member is in exactly one place: a role of a sample, its other suffixes, or ignored.
#[test]
fn no_member_is_lost() {
    let mut seed = 11_u64;
    let mut below = |end: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize % end
    };
    const PARTS: [&str; 12] =
        ["jpg", "PNG", "v1.jpg", "heic", "txt", "text", "b.txt", "json", "x.json", "cls", "", "a.b"];
    for _ in 0..2_000 {
        let members: Vec<_> = (0..below(40))
            .map(|_| {
                let (key, suffix) = (below(3), PARTS[below(PARTS.len())]);
                match below(12) {
                    0 => member("dir", MemberKind::Directory),
                    1 => file("._x.jpg", ""),
                    2 => file("__m__", ""),
                    3 => member("dev.jpg", MemberKind::Other { type_flag: b'3' }),
                    4 => link(&format!("k{key}.{suffix}")),
                    5 => file(&format!("k{key}"), ""),
                    6 => member(
                        &format!("k{key}.{suffix}"),
                        MemberKind::File(MemberData::TooLarge { size: 9 }),
                    ),
                    _ => file(&format!("k{key}.{suffix}"), "data"),
                }
            })
            .collect();
        let count = members.len() as u64;
        let (samples, ignored) = assemble(members);
        let roles = |sample: &RawSample| {
            u64::from(sample.image.is_some())
                + u64::from(sample.caption.is_some())
                + u64::from(sample.json.is_some())
                + sample.other_count
        };
        assert_eq!(samples.iter().map(roles).sum::<u64>() + ignored.total(), count);
        let firsts = samples.iter().filter(|sample| !sample.is_duplicate).map(|sample| &sample.key);
        let distinct: std::collections::BTreeSet<_> = samples.iter().map(|sample| &sample.key).collect();
        assert_eq!(firsts.count(), distinct.len(), "of each key exactly one is no duplicate");
        assert!(samples.iter().enumerate().all(|(at, sample)| sample.index == at as u64));
        assert!(samples.iter().all(|sample| roles(sample) > 0), "no sample without a member");
    }
}
