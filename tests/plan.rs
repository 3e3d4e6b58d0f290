//! `recaption plan`: its numbers are those of the run that follows, and it finds everything that would make that run fail.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

#[path = "plan/forecast.rs"]
mod forecast;
#[path = "plan/stores.rs"]
mod stores;
mod support;

use std::{
    fs::{self, File},
    path::Path,
};

use serde_json::{Value, json};
use support::{
    Place, files_below, model,
    program::{Call, Said, recaption},
    server::{Answer, Server, times},
    shards::{Pack, jpeg, scenes},
};

/// `recaption plan` of what [`Place::run`] runs.
fn plan(place: &Place, input: impl AsRef<Path>, output: &str) -> Call {
    let call = recaption().dir(place.root()).arg("plan").arg("--model").arg(model());
    call.arg("--input").arg(input.as_ref()).arg("--output").arg(place.path(output))
}

/// The problems of a plan: what each is about, with its whole text.
fn problems(said: &Said) -> Vec<(String, String)> {
    let report = said.report();
    let text = |problem: &Value, key: &str| problem[key].as_str().expect("a text").to_owned();
    let problems = report["problems"].as_array().expect("a list");
    problems
        .iter()
        .map(|problem| {
            let what = ["place", "what", "remedy"].map(|key| text(problem, key)).join(" | ");
            (text(problem, "subject"), what)
        })
        .collect()
}

/// Ends with exit code 2 and one problem, about `subject`, that says all of `words`.
#[track_caller]
fn has_one_problem(call: Call, subject: &str, words: &[&str]) -> Said {
    let said = call.ends(2);
    let found = problems(&said);
    let fits =
        found.len() == 1 && found[0].0 == subject && words.iter().all(|word| found[0].1.contains(word));
    said.check(fits, &format!("one problem about {subject} with {words:?} was expected"));
    said
}

#[test]
fn numbers_are_those_of_the_run_that_follows() {
    let place = Place::new();
    for (name, shard, samples) in [("00000", 0, 6), ("00001", 1, 7), ("00002", 2, 5)] {
        place.write(&format!("in/{name}.tar"), scenes(shard, samples));
    }
    let photos: Vec<u64> = (0..4).collect();
    for n in &photos {
        place.write(&format!("photos/{n}.jpg"), jpeg(*n));
    }
    place.write("photos/0.txt", "a caption");
    let rows: String = (0..3).map(|n| format!("{{\"url\": \"http://127.0.0.1:1/{n}.jpg\"}}\n")).collect();
    place.write("lists/urls.jsonl", rows);
    let inputs = |call: Call| {
        call.arg("--input").arg(place.path("photos")).arg("--input").arg(place.path("lists/urls.jsonl"))
    };
    let planned = inputs(plan(&place, place.path("in"), "out")).ends(0).report();
    assert!(!place.path("out").exists(), "plan wrote to the output");
    assert_eq!(planned["is_ready"], json!(true));
    assert_eq!(planned["shards"]["pending"], json!(5), "{planned:#}");
    assert_eq!(planned["images"]["pending"], json!(18 + 4 + 3), "{planned:#}");
    assert_eq!(planned["images"]["is_estimate"], json!(false));
    let sources: Vec<&str> = planned["images"]["sources"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|source| source["source"].as_str().expect("a text"))
        .collect();
    assert_eq!(sources, ["headers of archives", "listings of folders", "rows of lists"]);

    let run = inputs(place.run(place.path("in"), "out")).ends(0).report();
    assert_eq!(run["shards_done"], planned["shards"]["pending"]);
    assert_eq!(run["counts"]["read"], planned["images"]["pending"]);

    let after = inputs(plan(&place, place.path("in"), "out")).ends(0).report();
    let (shards, images) = (&after["shards"], &after["images"]);
    assert_eq!((&shards["done"], &shards["pending"]), (&json!(5), &json!(0)), "{after:#}");
    assert_eq!((&images["done"], &images["pending"]), (&run["counts"]["read"], &json!(0)));
    assert_eq!(after["bytes"]["total"], planned["bytes"]["total"]);
}

#[test]
fn rows_of_parquet_are_counted_by_footers() {
    let place = Place::new();
    let input = place.draw("in", 2, 5);
    place.run(&input, "embedded").set("output.images=embed").ends(0);
    let tables = place.path("embedded/captions");
    let planned = plan(&place, &tables, "out").ends(0).report();
    let images = &planned["images"];
    let [source] = &images["sources"].as_array().expect("a list")[..] else { panic!("{images:#}") };
    assert_eq!(
        *source,
        json!({"source": "Parquet footers", "shards": 2, "images": 10, "is_estimate": false})
    );
    assert!(images["row_group_bytes"].as_u64() > Some(10_000), "{images:#}");
    assert!(planned["memory"]["uses"].to_string().contains("row groups of Parquet"), "{planned:#}");
    let run = place.run(&tables, "out").ends(0).report();
    assert_eq!(
        (&run["counts"]["read"], &run["shards_done"]),
        (&images["pending"], &planned["shards"]["pending"])
    );
}

#[test]
fn archives_of_web_servers_without_ranges_are_counted() {
    let small = scenes(0, 100);
    // Longer than what is read of it.
    let large = (0..40).fold(Pack::new(), |pack, n| {
        pack.file(&format!("{n:03}.jpg"), vec![b'x'; 500_000]).file(&format!("{n:03}.txt"), b"a caption")
    });
    let packed = zstd::encode_all(small.as_slice(), 1).expect("zstd");
    assert!(small.len().min(packed.len()) > 64 << 10, "more than is read at once");
    let files = [("small.tar", small), ("packed.tar.zst", packed), ("large.tar", large.close())];
    let answers = files.map(|(name, bytes)| (format!("/{name}"), Answer::Whole(times(0), bytes)));
    let server = Server::start(answers.into_iter().collect());
    let images = |name: &str| {
        let url = format!("http://127.0.0.1:{}/{name}", server.port());
        let planned = plan(&Place::new(), url, "out").ends(0).report();
        (planned["images"]["pending"].as_u64(), planned["images"]["is_estimate"] == json!(true))
    };
    assert_eq!(images("small.tar"), (Some(100), false));
    assert_eq!(images("packed.tar.zst"), (Some(100), false));
    let (estimate, is_estimate) = images("large.tar");
    assert!(is_estimate && (38..=42).contains(&estimate.unwrap_or(0)), "{estimate:?}");
}

#[test]
fn many_archives_are_estimated_from_what_is_known() {
    let place = Place::new();
    let input = place.draw("in", 12, 4);
    let estimate = |word: &str| {
        let planned = plan(&place, &input, "out").ends(0).report();
        let images = &planned["images"];
        assert_eq!(images["is_estimate"], json!(true), "{images:#}");
        assert!(images["sources"].to_string().contains(word), "{images:#}");
        images["total"].as_u64().expect("a number")
    };
    let around = 44..=52;
    assert!(around.contains(&estimate("headers of 8 shards")));
    place.run(&input, "out").args(["--limit", "8"]).ends(0);
    assert!(around.contains(&estimate("shards that are done")));
    fs::remove_dir_all(place.path("out")).expect("a folder");
    (0..12).for_each(|n| drop(place.write(&format!("in/{n:05}_stats.json"), "{\"successes\": 4}")));
    assert_eq!(estimate("img2dataset"), 48);
}

#[test]
fn what_is_redone_is_named_with_the_reason() {
    let place = Place::new();
    let input = place.draw("in", 4, 3);
    place.run(&input, "out").ends(0);
    place.write("in/00001.tar", scenes(7, 5));
    // A part of another shard is gone.
    let part =
        files_below(&place.path("out/captions")).into_keys().find(|p| p.to_string_lossy().contains("00003"));
    fs::remove_file(place.path("out/captions").join(part.expect("a part"))).expect("a file");
    place.write("in/00004.tar", scenes(4, 2));
    let planned = plan(&place, &input, "out").ends(0).report();
    let redo = planned["redo"].as_array().expect("a list");
    let why = |at: usize| (redo[at]["why"].as_str().expect("a text"), redo[at]["shards"].as_u64());
    assert_eq!(redo.len(), 2, "{planned:#}");
    assert_eq!(why(0), ("the input changed", Some(1)));
    assert_eq!(why(1), ("the record or a part is invalid", Some(1)));
    assert!(redo[0]["examples"][0].as_str().is_some_and(|url| url.ends_with("00001.tar")));
    assert_eq!(
        planned["shards"],
        json!({"total": 5, "done": 2, "pending": 3, "not_selected": 0, "orphaned": 0})
    );
    assert_eq!(planned["images"]["pending"], json!(5 + 3 + 2));
    let run = place.run(&input, "out").ends(0).report();
    assert_eq!((&run["shards_done"], &run["counts"]["read"]), (&json!(3), &json!(10)));
}

#[test]
fn planning_changes_nothing() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.run(&input, "out").ends(0);
    place.write("in/00002.tar", scenes(2, 3));
    let before = files_below(place.root());
    plan(&place, &input, "out").ends(0);
    plan(&place, &input, "out")
        .args(["--overwrite", "--lock", "--retire"])
        .set("caption.max_tokens=9")
        .ends(0);
    plan(&place, &input, "new/and/deep").ends(0);
    assert_eq!(files_below(place.root()), before);
    assert!(!place.path("new").exists());
}

#[test]
fn all_problems_are_listed_at_once() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.write("in/garbage.tar", [b'x'; 2_000]);
    place.write("in/cut.tar", &scenes(5, 3)[..9_000]);
    place.write("file", "no folder");
    let call = recaption().dir(place.root()).arg("plan").arg("--model").arg(place.path("nowhere"));
    let call = call.arg("--scorer").arg(place.path("nobody")).arg("--input").arg(&input);
    let call =
        call.arg("--input").arg(place.path("gone/{0..1}.tar")).arg("--output").arg(place.path("file/out"));
    let said = call.args(["--provider", "cuda", "--preview", "nothing.json"]).ends(2);
    let found = problems(&said);
    for (subject, words) in [
        ("model", vec!["nowhere", "recaption export"]),
        ("model", vec!["nobody", "model.scorer"]),
        ("provider", vec!["CPU build", "make onnxruntime-gpu"]),
        ("input", vec!["garbage.tar", "it is text"]),
        ("input", vec!["cut.tar", "exit code 3"]),
        ("input", vec!["gone/0.tar"]),
        ("input", vec!["gone/1.tar"]),
        ("output", vec!["file/out", "cannot be written"]),
        ("configuration", vec!["nothing.json"]),
    ] {
        let fits = |problem: &&(String, String)| {
            problem.0 == subject && words.iter().all(|word| problem.1.contains(word))
        };
        said.check(
            found.iter().filter(fits).count() == 1,
            &format!("one problem about {subject}: {words:?}"),
        );
    }
    assert_eq!(found.len(), 9, "{found:#?}");
    let report = said.report();
    assert_eq!((&report["shards"]["pending"], &report["is_ready"]), (&json!(6), &json!(false)));
}

#[test]
fn required_keys_that_are_missing_are_all_named() {
    let place = Place::new();
    let said = recaption().dir(place.root()).arg("plan").ends(2);
    let found = problems(&said);
    let words: Vec<bool> = ["model.captioner", "output.url", "input.shards"]
        .iter()
        .map(|key| found.iter().any(|(subject, text)| subject == "configuration" && text.contains(key)))
        .collect();
    assert_eq!((found.len(), words), (3, vec![true; 3]), "{found:?}");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let input = place.draw("in", 1, 2);
    let served = plan(&place, &input, "out").set(&format!("run.metrics_addr={address}"));
    has_one_problem(served, "configuration", &[&address, "the port is in use"]);
    let file = place.path("gone/recaption.prom").display().to_string();
    let call = plan(&place, &input, "out").set(&format!("run.metrics_file={file}"));
    has_one_problem(call, "configuration", &[&file, "is not a folder", "create the folder"]);
    // What is no configuration at all is an error as everywhere.
    recaption().arg("plan").set("run.treads=1").ends(2).warns("did you mean `run.threads`");
    recaption().args(["plan", "--rate", "0"]).ends(2).warns("above 0");
}

#[test]
fn models_that_cannot_be_used_are_problems() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let copied = |name: &str| {
        for entry in fs::read_dir(model()).expect("a model") {
            let entry = entry.expect("an entry");
            place.write(
                &format!("{name}/{}", entry.file_name().display()),
                fs::read(entry.path()).expect("a file"),
            );
        }
        place.path(name)
    };
    let with = |dir: &Path| {
        let call = recaption().dir(place.root()).arg("plan").arg("--model").arg(dir);
        call.arg("--input").arg(&input).arg("--output").arg(place.path("out"))
    };
    let changed = copied("changed");
    let mut bytes = fs::read(changed.join("decoder.onnx")).expect("the decoder");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(changed.join("decoder.onnx"), bytes).expect("a file");
    has_one_problem(with(&changed), "model", &["decoder.onnx has changed since the export"]);

    let mute = copied("mute");
    let text = fs::read_to_string(mute.join("model.json")).expect("the description");
    let mut spec: Value = serde_json::from_str(&text).expect("JSON");
    spec["files"].as_array_mut().expect("a list").retain(|file| file["name"] != "tokenizer.json");
    fs::write(mute.join("model.json"), spec.to_string()).expect("a file");
    has_one_problem(with(&mute), "model", &["tokenizer"]);

    let call = plan(&place, &input, "out").set("caption.max_tokens=4000");
    has_one_problem(call, "model", &["`caption.max_tokens` = 4000"]);
}

#[test]
fn missing_runtime_and_provider_are_problems() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let library = plan(&place, &input, "out").env("ORT_DYLIB_PATH", place.path("nothing.so"));
    let said = has_one_problem(library, "provider", &["nothing.so"]);
    assert_eq!(said.report()["images"]["pending"], json!(2), "the rest is planned all the same");
    let cuda = plan(&place, &input, "out").args(["--provider", "cuda"]);
    has_one_problem(cuda, "provider", &["CPU build", "make onnxruntime-gpu"]);
    let device = plan(&place, &input, "out").args(["--device", "0"]);
    has_one_problem(device, "provider", &["`model.device` = 0 asks for a GPU"]);
}

#[test]
fn outputs_of_another_configuration_need_overwrite() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.run(&input, "out").ends(0);
    let other = || plan(&place, &input, "out").set("caption.max_tokens=9");
    has_one_problem(other(), "output", &["`caption.max_tokens` was 35, is 9", "--overwrite"]);
    let planned = other().arg("--overwrite").ends(0).report();
    assert_eq!((&planned["shards"]["pending"], &planned["images"]["pending"]), (&json!(2), &json!(6)));
    assert_eq!(planned["redo"][0]["why"], json!("it was made with another configuration"));
}

#[test]
fn outputs_among_the_inputs_and_empty_inputs_are_problems() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    has_one_problem(plan(&place, &input, "in"), "output", &["is also an input", "choose another output"]);
    fs::create_dir(place.path("empty")).expect("a folder");
    has_one_problem(plan(&place, place.path("empty"), "out"), "input", &["matches no shard"]);
    let web =
        recaption().dir(place.root()).arg("plan").arg("--model").arg(model()).arg("--input").arg(&input);
    has_one_problem(
        web.args(["--output", "https://host.example/out"]),
        "output",
        &["cannot be on a web server"],
    );
}

#[test]
fn locked_outputs_are_noted() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let lock = place.write("out/_recaption/lock.json", "{}");
    let file = File::open(lock).expect("a file");
    file.lock().expect("a lock");
    let notes = |said: &Said| said.report()["notes"].to_string();
    let said = plan(&place, &input, "out").ends(0);
    assert!(notes(&said).contains("the output is locked by another run"), "{}", notes(&said));
    drop(file);
    let said = plan(&place, &input, "out").ends(0);
    assert!(!notes(&said).contains("locked"), "{}", notes(&said));
}

#[test]
fn too_little_memory_is_a_problem() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    // A thousand copies of the model, and slots for millions of images.
    let settings = ["model.sessions=1024", "run.batch_size=4096", "run.cache_bytes=1000000000000000"];
    let call = settings.iter().fold(plan(&place, &input, "out"), |call, setting| call.set(setting));
    let said = has_one_problem(call, "memory", &["a run needs", "model.sessions"]);
    let memory = &said.report()["memory"];
    assert!(memory["needed_bytes"].as_u64() > memory["machine"]["limit_bytes"].as_u64(), "{memory:#}");
    let too_small = plan(&place, &input, "out").set("run.cache_bytes=1048576").set("model.sessions=1024");
    has_one_problem(too_small, "memory", &["cache_bytes", "raise run.cache_bytes"]);
}

#[test]
fn limited_runs_need_less_disk() {
    let place = Place::new();
    let input = place.draw("in", 3, 6);
    let needed = |more: &[&str]| {
        let planned = plan(&place, &input, "out").args(more).ends(0).report();
        planned["disk"]["needed_bytes"].as_u64().expect("a number")
    };
    let all = needed(&[]);
    assert!(all >= 18 * 100, "{all}");
    assert_eq!(needed(&["--limit", "7"]), all * 2 / 3, "two shards are read");
    assert_eq!(needed(&["--limit", "99"]), all);
}

#[test]
fn plans_for_people_are_text() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    let said = plan(&place, &input, "out")
        .args(["--log-format", "text", "--rate", "1", "--price-per-hour", "2"])
        .ends(0);
    for line in [
        "shards    2 = 0 done + 2 pending",
        "images    6 = 0 done + 6 pending",
        "6 in 2 shards, counted by headers of archives",
        "compute   cpu: ",
        "memory    ",
        "time      6 s on this machine, at 1.0 images/s (--rate)",
        "cost      0.00 at 2 per hour and worker; 555.56 per million images",
        "ready     a run finds everything that it needs",
    ] {
        said.prints(line);
    }
    let said = plan(&place, place.path("gone"), "out").args(["--log-format", "text"]).ends(2);
    said.prints("problem   input: ").prints("-> correct input.shards").prints("not ready 1 problem");
}
