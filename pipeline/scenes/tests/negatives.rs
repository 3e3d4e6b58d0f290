//! False captions: one change each, and never true.

use std::collections::BTreeMap;

use crate::scenes::{
    Change, Scene, TextKind, descriptive, false_captions, key, sample, sample_index, write_shard,
};

/// Words of a caption, sorted.
fn words(caption: &str) -> Vec<&str> {
    let mut words: Vec<&str> = caption.split([' ', ',']).filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words
}

#[test]
fn false_captions_differ_by_what_they_change() {
    let mut counts: BTreeMap<Change, usize> = BTreeMap::new();
    for index in 0..500 {
        let (scene, _) = sample(4, index);
        let truth = descriptive(&scene);
        for (change, caption) in false_captions(&scene, 4, index) {
            *counts.entry(change).or_default() += 1;
            assert_ne!(caption, truth);
            let (ours, theirs) = (words(&caption), words(&truth));
            let removed = theirs.iter().filter(|word| !ours.contains(word)).count();
            match change {
                // The same words in another order.
                Change::Swap => assert!(
                    ours.iter()
                        .filter(|w| !["a", "an"].contains(w))
                        .eq(theirs.iter().filter(|w| !["a", "an"].contains(w))),
                    "{truth}\n{caption}"
                ),
                Change::Colour | Change::Shape => {
                    assert_eq!(ours.len(), theirs.len(), "{truth}\n{caption}");
                    assert!(removed <= 2, "{truth}\n{caption}");
                }
                Change::Place => assert_eq!(objects(&caption), objects(&truth), "{truth}\n{caption}"),
                Change::Count => assert!(ours.len() > theirs.len() + 4, "{truth}\n{caption}"),
            }
        }
    }
    // One object of four has no partner, and a quarter of the scenes is full.
    assert_eq!((counts[&Change::Colour], counts[&Change::Shape], counts[&Change::Place]), (500, 500, 500));
    assert!((330..420).contains(&counts[&Change::Swap]), "{counts:?}");
    assert!((330..420).contains(&counts[&Change::Count]), "{counts:?}");
}

/// Number of objects that a caption names.
fn objects(caption: &str) -> usize {
    caption.matches("small ").count() + caption.matches("large ").count()
}

#[test]
fn pairs_shard_holds_every_caption_with_the_scenes_image() {
    let plain = members(TextKind::Descriptive);
    let pairs = members(TextKind::Pairs);
    assert_eq!(pairs["00003000000-true.txt"], plain["00003000000.txt"]);
    let mut texts = 0;
    for i in 0..10 {
        let (scene, _) = sample(5, sample_index(3, i));
        for (change, caption) in false_captions(&scene, 5, sample_index(3, i)) {
            let key = format!("{}-{}", key_of(i), change.name());
            assert_eq!(pairs[&format!("{key}.txt")], caption.as_bytes());
            assert_eq!(pairs[&format!("{key}.jpg")], plain[&format!("{}.jpg", key_of(i))]);
            texts += 1;
        }
    }
    assert_eq!(pairs.len(), 3 * (10 + texts));
}

fn key_of(i: u32) -> String {
    key(3, i)
}

/// Returns the members of a shard of ten scenes.
fn members(kind: TextKind) -> BTreeMap<String, Vec<u8>> {
    let shard = write_shard(Vec::new(), 5, 3, 10, kind).expect("a shard");
    let mut archive = tar::Archive::new(shard.as_slice());
    let entries = archive.entries().expect("a tar").map(|entry| {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").display().to_string();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).expect("content");
        (name, content)
    });
    entries.collect()
}

#[test]
fn false_captions_of_a_seed_never_change() {
    let scene = Scene::from_json(
        br#"{"background": "teal", "objects": [
            {"shape": "heart", "colour": "red", "size": "large", "row": 0, "col": 0, "dx": 0, "dy": 0},
            {"shape": "ring", "colour": "blue", "size": "small", "row": 1, "col": 1, "dx": 0, "dy": 0}]}"#,
    )
    .expect("a scene");
    let captions = false_captions(&scene, 1, 7);
    assert_eq!(captions, false_captions(&scene, 1, 7));
    assert_ne!(captions, false_captions(&scene, 1, 8));
    assert_eq!(captions.len(), 5);
}
