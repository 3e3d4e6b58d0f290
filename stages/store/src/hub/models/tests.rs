//! Names, the cache's folder, and its layout. Downloads are tested in the repository's `tests/pull.rs`.

use std::fs;

use super::{FileChoice, HubModel, cache::HubCache};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[test]
fn names_parse_with_and_without_scheme() {
    for (text, canonical, revision) in [
        ("org/model", "hf://org/model", "main"),
        ("hf://org/model", "hf://org/model", "main"),
        ("hf://org/model/", "hf://org/model", "main"),
        ("org/model@v1.0", "hf://org/model@v1.0", "v1.0"),
        ("org/model@refs/pr/7", "hf://org/model@refs%2Fpr%2F7", "refs/pr/7"),
        ("hf://org/model@refs%2Fpr%2F7", "hf://org/model@refs%2Fpr%2F7", "refs/pr/7"),
    ] {
        let model: HubModel = text.parse().expect(text);
        assert_eq!((model.to_string().as_str(), model.revision()), (canonical, revision), "{text}");
        assert_eq!(canonical.parse::<HubModel>().expect(canonical), model);
    }
    for text in [
        "",
        "model",
        "hf://",
        "hf://org",
        "org/model/file",
        "org//model",
        "../model",
        "org/..",
        "org/model@",
        "org/model@../x",
        "org/model@/etc",
        "org/model@a%2F..%2Fb",
        "datasets/org/model",
        "hf://spaces/o/n",
        "o rg/model",
        "org/mo\u{e9}l",
    ] {
        text.parse::<HubModel>().expect_err(text);
    }
}

#[test]
fn paths_are_no_urls_and_open_clips_urls_have_a_hint() {
    assert_eq!(HubModel::parse_url("models/org/model"), Ok(None));
    assert_eq!(HubModel::parse_url("hf:/x"), Ok(None));
    let error = HubModel::parse_url("hf-hub:laion/CoCa").expect_err("open_clip's");
    assert!(error.ends_with("write hf://laion/CoCa"), "{error}");
}

fn cache(variables: &[(&str, &str)]) -> Result<String, String> {
    let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
    let cache = HubCache::from_lookup(&find).map_err(|error| error.to_string())?;
    let model = cache.model(&"org/model".parse().expect("a name"));
    Ok(model.snapshot_dir("c").display().to_string())
}

#[test]
fn folders_follow_the_variables_of_huggingface_hub() {
    for (variables, root) in [
        (&[("HF_HUB_CACHE", "/c"), ("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")][..], "/c"),
        (&[("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HOME", "/h")], "/old"),
        (&[("HF_HUB_CACHE", "~/c"), ("HOME", "/me")], "/me/c"),
        (&[("HF_HUB_CACHE", " "), ("HF_HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/h/hub"),
        (&[("XDG_CACHE_HOME", "/x"), ("HOME", "/me")], "/x/huggingface/hub"),
        (&[("HOME", "/me")], "/me/.cache/huggingface/hub"),
    ] {
        assert_eq!(cache(variables), Ok(format!("{root}/models--org--model/snapshots/c")), "{variables:?}");
    }
    assert!(cache(&[]).expect_err("no folder").contains("HF_HOME"));
}

#[test]
fn refs_and_links_are_read_as_they_are_written() {
    const CHOICES: [FileChoice; 2] = [
        FileChoice { forms: &[&["a"]], is_required: true },
        FileChoice { forms: &[&["b", "c"], &["d"]], is_required: false },
    ];
    let root = tempfile::tempdir().expect("a folder");
    let home = root.path().display().to_string();
    let find = |name: &str| (name == "HF_HUB_CACHE").then(|| home.clone());
    let model = HubCache::from_lookup(&find).expect("a cache").model(&"org/model".parse().expect("a name"));
    assert_eq!(model.commit("main"), None);
    model.write_ref("refs/pr/1", COMMIT).expect("a ref");
    assert_eq!(model.commit("refs/pr/1").as_deref(), Some(COMMIT));
    let path = root.path().join("models--org--model/refs/refs/pr/1");
    assert_eq!(fs::read_to_string(&path).expect("a ref"), COMMIT);
    fs::write(&path, "../../elsewhere").expect("written");
    assert_eq!(model.commit("refs/pr/1"), None, "a ref holds a commit");
    assert_eq!(model.snapshot(COMMIT, &CHOICES), None);
    fs::create_dir_all(model.blob("x").parent().expect("a folder")).expect("made");
    fs::write(model.blob("x"), "bytes").expect("written");
    for name in ["a", "b", "d"] {
        model.link(COMMIT, name, "x").expect("a link");
    }
    let found = model.snapshot(COMMIT, &CHOICES).expect("complete");
    let names: Vec<_> = found.files.iter().map(|file| (file.name.as_str(), file.bytes)).collect();
    assert_eq!(names, [("a", 5), ("d", 5)], "the form that is complete");
    assert_eq!(fs::read(found.dir.join("d")).expect("through the link"), b"bytes");
    fs::remove_file(model.blob("x")).expect("removed");
    assert_eq!(model.snapshot(COMMIT, &CHOICES), None, "a link to nothing is not there");
}
