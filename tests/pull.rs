//! Checkpoints from the Hugging Face hub, over a hub on this machine: downloads, the cache, torch files.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use support::{
    Place, data,
    hub::{COMMIT, Habits, HubStub, TOKEN},
    program::{Call, recaption},
    torch_zip,
};

const CONFIG: &str = "open_clip_config.json";
const WEIGHTS: &str = "open_clip_model.safetensors";
const TORCH_WEIGHTS: &str = "open_clip_pytorch_model.bin";

fn file(name: &str) -> Vec<u8> {
    fs::read(data("coca/odd").join(name)).expect("a fixture")
}

/// The files of a small CoCa, with one more that nobody needs.
fn model() -> BTreeMap<String, Vec<u8>> {
    let readme = ("README.md".to_owned(), b"a model".to_vec());
    BTreeMap::from([(CONFIG.into(), file(CONFIG)), (WEIGHTS.into(), file(WEIGHTS)), readme])
}

/// A small CoCa whose weights are torch's.
fn torch_model(weights: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([(CONFIG.into(), file(CONFIG)), (TORCH_WEIGHTS.into(), weights)])
}

fn sha256(bytes: &[u8]) -> String {
    recaption_schemas::hex(&Sha256::digest(bytes))
}

/// The program with a hub and a cache of the test's own.
fn call(place: &Place, endpoint: &str) -> Call {
    let unset = ["HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HUB_OFFLINE", "HF_TOKEN_PATH"];
    let call = unset.into_iter().fold(recaption(), |call, name| call.env(name, ""));
    call.env("HF_ENDPOINT", endpoint).env("HF_HOME", place.path("hf")).dir(place.root())
}

/// An address where nobody listens.
const NOWHERE: &str = "http://127.0.0.1:9";

fn cached(place: &Place) -> PathBuf {
    place.path("hf/hub/models--org--model")
}

#[test]
fn pulls_land_in_the_layout_of_huggingface_hub() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let pull = || call(&place, &hub.url()).env("HF_TOKEN", TOKEN).args(["pull", "org/model"]);
    pull().ends(0).prints(COMMIT).prints("downloaded").prints("recaption export --checkpoint hf://org/model");
    let root = cached(&place);
    assert_eq!(fs::read_to_string(root.join("refs/main")).expect("a ref"), COMMIT);
    let hash = sha256(&file(WEIGHTS));
    let snapshot = root.join("snapshots").join(COMMIT);
    let target = fs::read_link(snapshot.join(WEIGHTS)).expect("a link");
    assert_eq!(target, Path::new("../../blobs").join(&hash));
    assert_eq!(fs::read(root.join("blobs").join(&hash)).expect("a blob"), file(WEIGHTS));
    assert_eq!(fs::read(snapshot.join(CONFIG)).expect("a file"), file(CONFIG));
    assert!(!snapshot.join("README.md").exists(), "only what an export needs");
    let blobs = fs::read_dir(root.join("blobs")).expect("blobs").count();
    assert_eq!(blobs, 2, "nothing incomplete is left");
    let asked = hub.asked();
    assert!(asked.iter().any(|(is_cdn, _)| *is_cdn), "large files come from another server");
    for (is_cdn, asked) in &asked {
        assert_eq!(asked.authorization.is_some(), !is_cdn, "the token is for the hub alone: {asked:?}");
    }
    pull().ends(0).prints("was there").never_says("downloaded");
    assert_eq!(
        (hub.downloads(WEIGHTS), hub.downloads(CONFIG)),
        (2, 1),
        "the hub's redirect and the bytes, once"
    );
}

#[test]
fn checkpoints_by_url_are_exported_online_and_offline() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let export = |endpoint: &str, url: &str, out: &str| {
        call(&place, endpoint).args(["export", "--checkpoint", url, "--out", out])
    };
    export(&hub.url(), "hf://org/model", "online").ends(0);
    export(NOWHERE, "hf://org/model", "offline").env("HF_HUB_OFFLINE", "1").ends(0);
    let said = export(NOWHERE, "hf://org/model", "unreachable").env("RECAPTION_STORE__RETRIES", "1").ends(0);
    said.warns("hub cannot be reached; using the cached files");
    let local = data("coca/odd").display().to_string();
    export(NOWHERE, &local, "local").ends(0);
    for name in ["online", "offline", "unreachable"] {
        let read = |folder: &str| fs::read(place.path(folder).join("model.json")).expect("a model");
        assert_eq!(read(name), read("local"), "{name}");
    }
    let inspect = call(&place, NOWHERE).env("HF_HUB_OFFLINE", "1").args(["inspect", "hf://org/model"]);
    inspect.ends(0).prints("CoCa").prints(WEIGHTS);
    let pinned = format!("hf://org/model@{COMMIT}");
    call(&place, NOWHERE).env("HF_HUB_OFFLINE", "1").args(["inspect", &pinned]).ends(0);
    let said = call(&place, NOWHERE).env("HF_HUB_OFFLINE", "1").args(["pull", "org/other@v1"]).ends(1);
    said.warns("hf://org/other@v1 is not in the cache")
        .warns("HF_HUB_OFFLINE is set")
        .warns("recaption pull org/other@v1");
    let said = call(&place, NOWHERE).env("RECAPTION_STORE__RETRIES", "1").args(["pull", "org/other"]).ends(1);
    said.warns("the hub cannot be reached");
}

#[test]
fn broken_downloads_go_on_where_they_stopped() {
    let habits = Habits { breaks: 2, busy: 1, ..Habits::default() };
    let (place, hub) = (Place::new(), HubStub::start(model(), habits));
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
    let ranges: Vec<_> =
        hub.asked().into_iter().filter(|(cdn, _)| *cdn).map(|(_, asked)| asked.range).collect();
    let size = file(WEIGHTS).len();
    let expected = [
        None,
        Some(format!("bytes={}-", size / 2)),
        Some(format!("bytes={}-", size / 2 + (size - size / 2) / 2)),
    ];
    assert_eq!(ranges, expected);
    let link = cached(&place).join("snapshots").join(COMMIT).join(WEIGHTS);
    assert_eq!(fs::read(link).expect("the weights"), file(WEIGHTS));
}

#[test]
fn downloads_of_a_killed_program_are_resumed() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let whole = file(WEIGHTS);
    let incomplete = format!("hf/hub/models--org--model/blobs/{}.recaption.incomplete", sha256(&whole));
    place.write(&incomplete, &whole[..1000]);
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0).warns("resuming the download");
    assert!(hub.asked().iter().any(|(cdn, asked)| *cdn && asked.range.as_deref() == Some("bytes=1000-")));
    assert!(!place.path(&incomplete).exists());
    // What is left of another file does not become the model.
    let place = Place::new();
    place.write(&incomplete, [7; 1000]);
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(1).warns("its SHA-256 is");
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
}

#[test]
fn servers_without_ranges_send_everything_again() {
    let habits = Habits { breaks: 1, whole: true, ..Habits::default() };
    let (place, hub) = (Place::new(), HubStub::start(model(), habits));
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
    let link = cached(&place).join("snapshots").join(COMMIT).join(WEIGHTS);
    assert_eq!(fs::read(link).expect("the weights"), file(WEIGHTS));
}

#[test]
fn damaged_downloads_never_get_a_name() {
    let habits = Habits { damaged: true, ..Habits::default() };
    let (place, hub) = (Place::new(), HubStub::start(model(), habits));
    let said = call(&place, &hub.url()).args(["pull", "org/model"]).ends(1);
    said.warns("its SHA-256 is").warns(&sha256(&file(WEIGHTS))).warns("downloads it again");
    assert!(!cached(&place).join("snapshots").join(COMMIT).join(WEIGHTS).exists());
    let blobs = fs::read_dir(cached(&place).join("blobs")).expect("blobs").count();
    assert_eq!(blobs, 1, "the configuration alone");
}

#[test]
fn gated_and_missing_models_say_what_to_do() {
    let habits = Habits { gated: true, ..Habits::default() };
    let (place, hub) = (Place::new(), HubStub::start(model(), habits));
    let pull = |name: &str| call(&place, &hub.url()).args(["pull", name]);
    pull("org/model")
        .ends(1)
        .warns("the model is gated")
        .warns("accept its conditions (licence)")
        .warns("HF_TOKEN");
    let said = pull("org/model").env("HF_TOKEN", "hf_wrong_one").ends(1);
    said.warns("may not read it").never_says("hf_wrong_one");
    place.write("hf/token", format!("{TOKEN}\n"));
    pull("org/model").ends(0);
    pull("org/other").ends(1).warns("not found on the hub").warns("check the name and the revision");
    pull("org/model@v2").ends(1).warns("hf://org/model@v2");
    pull("model").ends(2).warns("ORG/NAME[@REVISION]");
    pull("datasets/org/model").ends(2).warns("one of the hub's datasets");
    pull("hf-hub:org/model").ends(2).warns("write hf://org/model");
    let export = call(&place, &hub.url()).args(["export", "--checkpoint", "hf-hub:org/model", "--out", "m"]);
    export.ends(2).warns("write hf://org/model");
    let run = call(&place, &hub.url()).args([
        "run",
        "--model",
        "hf://org/model",
        "--input",
        "i.tar",
        "--output",
        "o",
    ]);
    run.ends(1).warns("recaption export --checkpoint hf://org/model");
}

#[test]
fn other_kinds_of_models_are_told_before_their_weights() {
    let mut files = model();
    let config = files.remove(CONFIG).expect("a configuration");
    files.insert("config.json".into(), b"{}".to_vec());
    let (place, hub) = (Place::new(), HubStub::start(files.clone(), Habits::default()));
    let said = call(&place, &hub.url()).args(["pull", "org/model"]).ends(1);
    said.warns("a model of Hugging Face transformers").warns("config.json");
    files.remove("config.json");
    let hub = HubStub::start(files.clone(), Habits::default());
    let said = call(&Place::new(), &hub.url()).args(["pull", "org/model"]).ends(1);
    said.warns("not a model in open_clip's format").warns("nor a BLIP").warns(CONFIG);
    let text = String::from_utf8(config).expect("UTF-8").replace("\"quick_gelu\"", "\"slow_gelu\"");
    files.insert(CONFIG.into(), text.into_bytes());
    let hub = HubStub::start(files, Habits::default());
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(1).warns("slow_gelu");
    assert_eq!(hub.downloads(WEIGHTS), 0);
    let mut files = model();
    files.remove(WEIGHTS);
    let hub = HubStub::start(files, Habits::default());
    let said = call(&Place::new(), &hub.url()).args(["pull", "org/model"]).ends(1);
    said.warns("has no open_clip_model.safetensors or open_clip_pytorch_model.bin");
}

#[test]
fn failed_pulls_leave_the_commit_before_usable_offline() {
    const BEFORE: &str = "fedcba9876543210fedcba9876543210fedcba98";
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
    // As if the branch had moved since.
    let snapshots = cached(&place).join("snapshots");
    fs::rename(snapshots.join(COMMIT), snapshots.join(BEFORE)).expect("a snapshot");
    let branch = cached(&place).join("refs/main");
    fs::write(&branch, BEFORE).expect("a ref");
    for blob in fs::read_dir(cached(&place).join("blobs")).expect("blobs") {
        let path = blob.expect("a blob").path();
        fs::rename(&path, path.with_extension("before")).expect("another hash");
    }
    for link in [CONFIG, WEIGHTS] {
        let link = snapshots.join(BEFORE).join(link);
        let target = fs::read_link(&link).expect("a link").with_extension("before");
        fs::remove_file(&link).and_then(|()| std::os::unix::fs::symlink(target, link)).expect("a link");
    }
    let mut unsupported = model();
    let config = String::from_utf8(file(CONFIG)).expect("UTF-8").replace("\"quick_gelu\"", "\"slow_gelu\"");
    unsupported.insert(CONFIG.into(), config.into_bytes());
    let damaged = Habits { damaged: true, ..Habits::default() };
    for (hub, words) in [
        (HubStub::start(unsupported, Habits::default()), "slow_gelu"),
        (HubStub::start(model(), damaged), "its SHA-256 is"),
    ] {
        call(&place, &hub.url()).args(["pull", "org/model"]).ends(1).warns(words);
        assert_eq!(fs::read_to_string(&branch).expect("a ref"), BEFORE, "{words}");
        let inspect = call(&place, NOWHERE).env("HF_HUB_OFFLINE", "1").args(["inspect", "hf://org/model"]);
        inspect.ends(0).prints("CoCa");
        let partial = snapshots.join(COMMIT);
        fs::remove_dir_all(partial).expect("what was pulled of the commit");
    }
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
    assert_eq!(fs::read_to_string(&branch).expect("a ref"), COMMIT);
}

#[test]
fn files_that_huggingface_hub_cached_are_not_downloaded() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let blob = format!("hf/hub/models--org--model/blobs/{}", sha256(&file(WEIGHTS)));
    place.write(&blob, file(WEIGHTS));
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0);
    assert_eq!(hub.downloads(WEIGHTS), 0);
}

#[test]
fn two_pulls_at_once_download_once() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let pulls: Vec<_> =
        (0..3).map(|_| call(&place, &hub.url()).args(["pull", "org/model"]).start()).collect();
    for pull in pulls {
        let said = pull.wait();
        said.check(said.status.success(), "every pull ends well");
    }
    assert_eq!(hub.downloads(WEIGHTS), 2, "the hub's redirect and the bytes, once");
}

#[test]
fn torch_weights_give_the_model_of_safetensors() {
    let torch = torch_zip::from_safetensors(&file(WEIGHTS), Some("text.position_ids"));
    let (place, hub) = (Place::new(), HubStub::start(torch_model(torch.clone()), Habits::default()));
    let export = |checkpoint: &str, out: &str| {
        call(&place, &hub.url()).args(["export", "--checkpoint", checkpoint, "--out", out]).ends(0)
    };
    export("hf://org/model", "torch");
    let local = data("coca/odd").display().to_string();
    export(&local, "safetensors");
    // A torch file under the other name is recognised by its first bytes.
    place.write(&format!("renamed/{CONFIG}"), file(CONFIG));
    place.write(&format!("renamed/{WEIGHTS}"), torch);
    export("renamed", "renamed-model");
    for name in fs::read_dir(place.path("safetensors")).expect("a model") {
        let name = name.expect("an entry").file_name();
        let read = |folder: &str| fs::read(place.path(folder).join(&name)).expect("a file");
        let same = read("torch") == read("safetensors") && read("renamed-model") == read("torch");
        // `model.json` has the digest of the file that the weights came from.
        assert!(same || name == "model.json", "{}", name.display());
    }
}

#[test]
fn hostile_pickles_execute_nothing() {
    for name in ["hostile.bin", "hostile4.bin"] {
        let weights = fs::read(data("torch").join(name)).expect("a fixture");
        let (place, hub) = (Place::new(), HubStub::start(torch_model(weights), Habits::default()));
        let export =
            call(&place, &hub.url()).args(["export", "--checkpoint", "hf://org/model", "--out", "m"]);
        let said = export.ends(1);
        said.warns("open_clip_pytorch_model.bin: data.pkl asks for `posix.system`; only tensors are read");
        assert!(!place.path("RECAPTION_HOSTILE_WAS_RUN").exists() && !place.path("m").exists());
    }
}

#[test]
fn directories_hold_what_was_pulled() {
    let (place, hub) = (Place::new(), HubStub::start(model(), Habits::default()));
    let pull = |dir: &str| call(&place, &hub.url()).args(["pull", "hf://org/model", "--dir", dir]);
    pull("here").ends(0).prints("recaption export --checkpoint here");
    for name in [CONFIG, WEIGHTS] {
        let path = place.path("here").join(name);
        assert!(fs::symlink_metadata(&path).expect("a file").is_file(), "no link");
        assert_eq!(fs::read(path).expect("a file"), file(name));
    }
    place.write(&format!("other/{TORCH_WEIGHTS}"), "weights of another model");
    pull("other").ends(1).warns("which this model has not");
}

#[test]
fn directories_never_mix_two_models() {
    const VOCABULARY: [&str; 4] =
        ["tokenizer.json", "vocab.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz"];
    let (place, plain) = (Place::new(), HubStub::start(model(), Habits::default()));
    let pull = |hub: &HubStub, home: &str, dir: &str| {
        let call = call(&place, &hub.url()).env("HF_HOME", place.path(home));
        call.args(["pull", "org/model", "--dir", dir])
    };
    // What another model left, and this one has not, would be taken for its own.
    for name in VOCABULARY {
        place.write(&format!("{name}.d/{name}"), "of another model");
        let said = pull(&plain, "plain", &format!("{name}.d")).ends(1);
        said.warns(&format!("holds {name}, which this model has not")).warns("choose another directory");
        assert_eq!(fs::read_dir(place.path(&format!("{name}.d"))).expect("a folder").count(), 1, "{name}");
    }
    let mut tokenized = model();
    tokenized.insert("tokenizer.json".into(), b"{}".to_vec());
    pull(&HubStub::start(tokenized, Habits::default()), "tokenized", "base").ends(0);
    pull(&plain, "plain", "base").ends(1).warns("holds tokenizer.json, which this model has not");
    // A tokenizer is built from the vocabulary that was pulled, and replaces the one that was there.
    let mut merges = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    merges.write_all(b"a title\nl o\n").expect("memory");
    let mut spelled = model();
    spelled.insert(VOCABULARY[3].into(), merges.finish().expect("memory"));
    pull(&HubStub::start(spelled, Habits::default()), "spelled", "base").ends(0);
    let built = fs::read_to_string(place.path("base/tokenizer.json")).expect("a tokenizer");
    assert!(built.contains("<start_of_text>"), "{built}");
}

#[test]
fn directories_of_other_formats_are_named() {
    let place = Place::new();
    place.write("git/config.json", r#"{"model_type": "git"}"#);
    place.write("git/model.safetensors", "x");
    place.write("file", "x");
    place.write("exported/model.json", "{}");
    let export = |checkpoint: &str| {
        call(&place, NOWHERE).args(["export", "--checkpoint", checkpoint, "--out", "m"]).ends(1)
    };
    export("git").warns("a model of Hugging Face transformers (config.json, model_type `git`)");
    export("file").warns("a file; expected the directory");
    export("exported").warns("use it as --model");
    export("nowhere").warns("as open_clip publishes it");
}

/// The files of a small BLIP, as the hub has them, with some that are not needed.
fn blip(case: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::from([("tf_model.h5".to_owned(), b"others' weights".to_vec())]);
    for entry in fs::read_dir(data("blip").join(case)).expect("a fixture") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        files.insert(name, fs::read(&path).expect("a file"));
    }
    files
}

#[test]
fn blips_are_pulled_described_and_exported() {
    for (case, kind, weights, tokenizer) in [
        ("tied", "BLIP, captions", "model.safetensors", "tokenizer.json"),
        ("untied", "BLIP, captions", "model.safetensors", "vocab.txt"),
        ("torch", "BLIP, captions", "pytorch_model.bin", "vocab.txt"),
        ("retrieval", "BLIP, scores and matches", "model.safetensors", "tokenizer.json"),
    ] {
        let (place, hub) = (Place::new(), HubStub::start(blip(case), Habits::default()));
        call(&place, &hub.url()).args(["pull", "org/model", "--dir", "here"]).ends(0).prints(weights);
        let mut pulled: Vec<String> = fs::read_dir(place.path("here"))
            .expect("a directory")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        pulled.sort();
        assert!(
            pulled.iter().any(|name| name == weights) && pulled.iter().any(|name| name == tokenizer),
            "{pulled:?}"
        );
        assert!(pulled.iter().all(|name| !name.starts_with("golden") && name != "tf_model.h5"), "{pulled:?}");
        let offline = || call(&place, NOWHERE).env("HF_HUB_OFFLINE", "1");
        offline().args(["inspect", "hf://org/model"]).ends(0).prints(kind).prints(weights);
        recaption().arg("inspect").arg(data("blip").join(case)).ends(0).prints(kind);
        offline().args(["export", "--checkpoint", "hf://org/model", "--out", "pulled"]).ends(0);
        let local = data("blip").join(case).display().to_string();
        offline().args(["export", "--checkpoint", &local, "--out", "local"]).ends(0);
        let read = |folder: &str| fs::read(place.path(folder).join("model.json")).expect("a model");
        assert_eq!(read("pulled"), read("local"), "{case}");
    }
}

#[test]
fn blips_that_cannot_be_exported_are_told_before_their_weights() {
    let mut files = blip("tied");
    let config = String::from_utf8(files["config.json"].clone()).expect("UTF-8");
    files.insert("config.json".into(), config.replace("\"blip\"", "\"blip-2\"").into_bytes());
    let hub = HubStub::start(files.clone(), Habits::default());
    let place = Place::new();
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(1).warns("`blip-2`");
    assert_eq!(hub.downloads("model.safetensors"), 0);
    // A model with both configurations is open_clip's.
    let mut both = model();
    both.extend(blip("tied"));
    let hub = HubStub::start(both, Habits::default());
    let place = Place::new();
    call(&place, &hub.url()).args(["pull", "org/model"]).ends(0).prints(CONFIG).prints(WEIGHTS);
    assert_eq!(hub.downloads("model.safetensors"), 0);
    // Another model's files beside it would be mistaken for its own.
    let hub = HubStub::start(blip("tied"), Habits::default());
    for name in [CONFIG, "pytorch_model.bin"] {
        place.write(&format!("other-{name}/{name}"), "of another model");
        let pull = call(&place, &hub.url()).args(["pull", "org/model", "--dir", &format!("other-{name}")]);
        pull.ends(1).warns("which this model has not");
    }
}
