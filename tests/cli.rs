//! The command line as people and schedulers meet it: exit codes, streams, configuration, secrets.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use image::ImageFormat;
use serde_json::json;
use support::{
    Place, checkpoint, files_below, model,
    output::{self, runs},
    program::{Said, recaption},
    server::{Answer, Request, Server},
    shards::{encoded, jpeg, scenes},
};

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("folders can be made");
    for name in files_below(from).into_keys() {
        fs::copy(from.join(&name), to.join(&name)).expect("files can be copied");
    }
}

#[test]
fn mistyped_keys_meet_the_nearest_known_one() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    place.run(&input, "out").set("run.bach_size=4").ends(2).warns("did you mean `run.batch_size`");
    place
        .run(&input, "out")
        .set("caption.min_similarity=0.1")
        .ends(2)
        .warns("did you mean `filter.min_similarity`");
    place.run(&input, "out").env("RECAPTION_RUN__THREAD", "1").ends(2).warns("did you mean `run.threads`");
    let file = place.write("job.toml", "[output]\nimage = \"embed\"\n");
    place.run(&input, "out").arg(&file).ends(2).warns("did you mean `output.images`").warns("job.toml");
    let flat = place.write("flat.toml", "threads = 4\n");
    place.run(&input, "out").arg(&flat).ends(2).warns("did you mean `run.threads`");
    place.run(&input, "out").set("run.threads").ends(2).warns("section.key=value");
    place.run(&input, "out").set("run.threads=many").ends(2).warns("`run.threads`").warns("a whole number");
    place.run(&input, "out").set("filter.min_similarity=2").ends(2).warns("a number from -1 to 1");
    place.run(&input, "out").set("caption.strategy=random").ends(2).warns("one of greedy");
    assert!(!place.path("out").exists(), "a refused configuration leaves nothing behind");
}

#[test]
fn file_environment_and_flags_override_one_another_in_this_order() {
    let place = Place::new();
    let input = place.draw("in", 1, 2);
    let file =
        place.write("job.toml", "[caption]\nmax_tokens = 5\nmin_tokens = 2\n[run]\nthreads = 1\nseed = 3\n");
    let tokens = |said: &Said| said.report()["configuration"]["caption.max_tokens"].clone();
    let run = |output: &str| place.run(&input, output).arg(&file);
    assert_eq!(tokens(&place.run(&input, "default").ends(0)), json!("35"));
    assert_eq!(tokens(&run("file").ends(0)), json!("5"));
    let environment = "RECAPTION_CAPTION__MAX_TOKENS";
    assert_eq!(tokens(&run("environment").env(environment, "6").ends(0)), json!("6"));
    assert_eq!(tokens(&run("set").env(environment, "6").set("caption.max_tokens=7").ends(0)), json!("7"));
    // A flag of its own wins over `--set`, and values are TOML.
    let said = run("flag")
        .env("RECAPTION_RUN__THREADS", "2")
        .set("run.threads = 3")
        .args(["--threads", "4"])
        .ends(0);
    let settings = &said.report()["explicit_settings"];
    assert_eq!((&settings["run.threads"], &settings["run.seed"]), (&json!("4"), &json!("3")), "{settings:#}");
    let said = place
        .run(&input, "set-wins-nothing")
        .set(&format!("input.shards = [{:?}, \"{}/00000.tar\"]", "nowhere.tar", input.display()))
        .ends(0);
    assert_eq!(said.report()["shards_done"], json!(1), "`--input` wins over `--set input.shards`");
}

#[test]
fn what_is_required_is_asked_for_by_name() {
    recaption().arg("run").ends(2).warns("model.captioner").warns("--model");
    recaption().args(["run", "--model", "m"]).ends(2).warns("output.url").warns("--output");
    recaption().args(["run", "--model", "m", "--output", "o"]).ends(2).warns("input.shards").warns("--input");
    recaption().ends(2).warns("Usage");
    recaption().arg("recapton").ends(2).warns("unrecognized subcommand");
    recaption().arg("--version").ends(0).prints("recaption");
}

#[test]
fn inputs_that_name_nothing_are_refused_with_their_pattern() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    for pattern in ["empty/*.tar", "in/{0.tar", "in/0}.tar", "in/?.tar"] {
        fs::create_dir_all(place.path("empty")).expect("folders can be made");
        place.run(place.path(pattern), "out").ends(2).warns(pattern);
    }
    place.run(place.path("nowhere.tar"), "out").ends(1).warns("nowhere.tar");
    place.run("ftp://host/0.tar", "out").ends(2).warns("unknown scheme `ftp`");
    place.run("http://127.0.0.1:9/*.tar", "out").ends(2).warns("cannot be listed");
    // One shard named thrice is one shard.
    let thrice = [input.join("00000.tar"), input.clone(), place.path("in/../in/0000*.tar")];
    let said = place.run_all(&thrice, "out").ends(0);
    assert_eq!(said.report()["shards_done"], json!(1));
    said.warns("named twice");
}

#[test]
fn a_missing_library_is_one_clear_sentence() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let said = place.run(&input, "out").env("ORT_DYLIB_PATH", "/nonexistent").ends(1);
    said.warns("ONNX Runtime").warns("/nonexistent").never_says("panicked");
    let errors: Vec<_> = said.log().into_iter().filter(|line| line["level"] == "ERROR").collect();
    said.check(errors.len() == 1, "one error line was expected");
    recaption()
        .arg("demo")
        .arg("--dir")
        .arg(place.path("demo"))
        .env("ORT_DYLIB_PATH", "/nonexistent")
        .ends(1)
        .warns("/nonexistent");
    assert!(!place.path("demo").exists(), "nothing is drawn in vain");
    // What needs no model runs without it.
    recaption().arg("inspect").arg(model()).env("ORT_DYLIB_PATH", "/nonexistent").ends(0);
}

#[test]
fn folders_that_are_no_model_are_told_apart() {
    let place = Place::new();
    let input = place.draw("in", 1, 1);
    let run = |model: &Path| recaption().arg("run").arg("--model").arg(model).arg("--input").arg(&input);
    let out = place.path("out");
    run(checkpoint())
        .arg("--output")
        .arg(&out)
        .ends(1)
        .warns("open_clip checkpoint")
        .warns("recaption export");
    run(&input).arg("--output").arg(&out).ends(1).warns("recaption export");
    let cut = place.path("cut");
    copy(model(), &cut);
    let decoder = cut.join("decoder.onnx");
    fs::write(&decoder, &fs::read(&decoder).expect("the decoder")[..1000]).expect("files can be written");
    run(&cut).arg("--output").arg(&out).ends(1).warns("decoder.onnx").warns("1000 bytes");
    let bare = place.path("bare");
    copy(checkpoint(), &bare);
    fs::remove_file(bare.join("tokenizer.json")).expect("files can be removed");
    recaption()
        .arg("export")
        .arg("--checkpoint")
        .arg(&bare)
        .arg("--out")
        .arg(place.path("mute"))
        .ends(0)
        .warns("tokenizer.json");
    run(&place.path("mute")).arg("--output").arg(&out).ends(1).warns("tokenizer");
    assert!(!out.exists());
}

#[test]
fn captions_of_single_files_go_to_stdout_and_complaints_to_stderr() {
    let place = Place::new();
    let good = place.write("a b.jpg", jpeg(1));
    let other = place.write("other.PNG", encoded(2, ImageFormat::Png));
    let bad = place.write("bad.jpg", &jpeg(3)[..700]);
    let caption = || recaption().arg("caption").arg(model());
    let said = caption().arg(&good).arg(&other).ends(0);
    let lines: Vec<Vec<&str>> = said.stdout.lines().map(|line| line.split('\t').collect()).collect();
    let [first, second] = lines.as_slice() else { panic!("two lines: {}", said.stdout) };
    assert_eq!((first[0], second[0]), (&*good.display().to_string(), &*other.display().to_string()));
    assert!(
        lines.iter().all(|line| line.len() == 3 && line[1].parse::<f32>().is_ok() && !line[2].is_empty())
    );

    let mixed = caption().arg(&bad).arg(&good).arg(place.path("nowhere.jpg")).ends(1);
    assert_eq!(mixed.stdout.lines().collect::<Vec<_>>(), [said.stdout.lines().next().expect("a line")]);
    mixed.warns("bad.jpg").warns("nowhere.jpg").warns("JPEG");
    caption().ends(2).warns("IMAGE");
    // The same picture through a shard has the same caption.
    let shard = support::shards::Pack::new().file("one.jpg", jpeg(1)).close();
    place.run(place.write("in/0.tar", shard), "out").ends(0);
    assert_eq!(output::read(&place.path("out")).captions[0].caption, first[2]);
}

#[test]
fn inspect_tells_models_and_outputs() {
    let place = Place::new();
    recaption().arg("inspect").arg(model()).ends(0).prints("coca (fp32").prints("decoder.onnx").prints("ok");
    let changed = place.path("changed");
    copy(model(), &changed);
    let decoder = changed.join("decoder.onnx");
    let mut bytes = fs::read(&decoder).expect("the decoder");
    *bytes.last_mut().expect("a byte") ^= 1;
    fs::write(&decoder, bytes).expect("files can be written");
    recaption().arg("inspect").arg(&changed).ends(1).prints("CHANGED");

    let input = place.draw("in", 2, 3);
    place.write("in/garbage.tar", [b'x'; 2_000]);
    place.run(&input, "out").ends(3);
    let said = recaption().arg("inspect").arg(place.path("out")).ends(0);
    said.prints("2 done, 1 failed, 0 damaged")
        .prints("6 read = 6 captioned + 0 rejected")
        .prints("caption.strategy = greedy");
    recaption().arg("inspect").arg(&input).ends(1).warns("neither a model folder nor an output");
}

#[test]
fn broken_checkpoints_are_refused_and_leave_no_model() {
    let place = Place::new();
    let export = |name: &str| {
        recaption()
            .arg("export")
            .arg("--checkpoint")
            .arg(place.path(name))
            .arg("--out")
            .arg(place.path("model"))
    };
    export("nowhere").ends(1).warns("nowhere");
    copy(checkpoint(), &place.path("cut"));
    let weights = place.path("cut/open_clip_model.safetensors");
    let whole = fs::read(&weights).expect("the weights");
    fs::write(&weights, &whole[..whole.len() / 2]).expect("files can be written");
    export("cut").ends(1).warns("open_clip_model.safetensors").never_says("panicked");
    copy(checkpoint(), &place.path("odd"));
    let config = place.path("odd/open_clip_config.json");
    let text = fs::read_to_string(&config).expect("the configuration");
    fs::write(&config, text.replacen("\"text_cfg\": {", "\"text_cfg\": {\"attn_bias_kind\": \"alibi\",", 1))
        .expect("files can be written");
    export("odd").ends(1).warns("attn_bias_kind");
    fs::write(&config, "{").expect("files can be written");
    export("odd").ends(1).warns("open_clip_config.json");
    assert!(!place.path("model").exists());
    let strays: Vec<PathBuf> = fs::read_dir(place.root())
        .expect("the place")
        .map(|e| e.expect("an entry").path())
        .filter(|p| !p.ends_with("cut") && !p.ends_with("odd"))
        .collect();
    assert!(strays.is_empty(), "half an export was left behind: {strays:?}");
    // What is no model folder is not replaced.
    place.write("model/thesis.tex", "years of work");
    let said = recaption()
        .arg("export")
        .arg("--checkpoint")
        .arg(checkpoint())
        .arg("--out")
        .arg(place.path("model"))
        .ends(1);
    said.warns("not a model folder");
    assert!(place.path("model/thesis.tex").exists());
}

#[test]
fn stdout_is_for_data_and_every_log_line_is_json_when_asked() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    place.write("in/garbage.tar", [b'x'; 2_000]);
    let json = place.run(&input, "json").args(["--log-format", "json", "--log-level", "debug"]).ends(3);
    let log = json.log();
    assert!(log.iter().all(|line| line["level"].is_string() && line["timestamp"].is_string()), "{log:?}");
    assert!(log.iter().any(|line| line["message"] == "planned" && line["shards"] == 3), "{log:?}");
    assert_eq!(json.report()["shards_failed"].as_array().map(Vec::len), Some(1));

    let text = place.run(&input, "text").args(["--log-format", "text"]).ends(3);
    text.prints("shards    2 done, 0 skipped, 1 failed, 0 damaged")
        .prints("samples   6 read = 6 captioned + 0 rejected");
    text.warns("garbage.tar");
    assert!(
        !text.stdout.contains("WARN") && !text.stderr.contains("samples "),
        "{}\n{}",
        text.stdout,
        text.stderr
    );
    let silent = place.run(&input, "silent").args(["--log-level", "error"]).ends(3);
    assert!(silent.log().iter().all(|line| line["level"] == "ERROR"));
    // Errors are JSON too, and alone.
    let refused = place.run(&input, "out").args(["--log-format", "json"]).set("run.treads=1").ends(2);
    assert_eq!((refused.log().len(), refused.stdout.as_str()), (1, ""));
}

#[test]
fn the_run_s_record_tells_what_was_asked_and_what_happened() {
    let place = Place::new();
    let input = place.draw("in", 2, 3);
    let said = place.run(&input, "out").set("run.batch_size=5").ends(0);
    let [record] = runs(&place.path("out")).try_into().expect("one record");
    assert_eq!(record, said.report());
    assert_eq!(record["explicit_settings"]["run.batch_size"], json!("5"));
    assert_eq!(record["counts"]["read"], json!(6));
    assert_eq!(record["configuration"]["model.captioner"], record["model"]);
}

/// Neither of the secrets may be anywhere: in a file's bytes, in its name, or in what was said.
fn keeps_secrets(said: &Said, output: &Path, secrets: &[&str]) {
    for secret in secrets {
        said.never_says(secret);
        for name in files_below(output).into_keys() {
            let bytes = fs::read(output.join(&name)).expect("a file of the output");
            let tells = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!tells && !name.to_string_lossy().contains(secret), "{} tells {secret}", name.display());
        }
    }
}

const SECRETS: [&str; 2] = ["SuperSecretSignature", "HushHushPassword"];

#[test]
fn presigned_shards_are_read_and_their_secrets_are_kept() {
    let place = Place::new();
    let (first, second) = (scenes(1, 30), scenes(2, 3));
    let server = Server::start(HashMap::from([
        ("/data/00001.tar".to_owned(), Answer::File(first.clone())),
        ("/data/00002.tar".to_owned(), Answer::OnlyGet(second.clone())),
        ("/data/00003.tar".to_owned(), Answer::Status(403)),
    ]));
    let url = |shards: &str| {
        format!(
            "http://me:{}@127.0.0.1:{}/data/{shards}.tar?sig={}&x=1",
            SECRETS[1],
            server.port(),
            SECRETS[0]
        )
    };
    let out = place.path("out");
    let good = place.run(url("{00001..00002}"), "out").args(["--log-level", "trace"]).ends(0);
    keeps_secrets(&good, &out, &SECRETS);
    let asked = server.asked();
    let whole = format!("?sig={}&x=1", SECRETS[0]);
    let basic = "Basic bWU6SHVzaEh1c2hQYXNzd29yZA==";
    let all =
        |holds: fn(&Request, &str) -> bool, what: &str| asked.iter().all(|request| holds(request, what));
    assert!(all(|request, whole| request.target.ends_with(whole), &whole), "{asked:?}");
    assert!(all(|request, basic| request.authorization.as_deref() == Some(basic), basic), "{asked:?}");

    let local = place.path("local");
    place.write("in/00001.tar", first);
    place.write("in/00002.tar", second);
    place.run(place.path("in"), "local").ends(0);
    let (far, near) = (output::read(&out).captions, output::read(&local).captions);
    assert_eq!(far.len(), 33);
    for (far, near) in far.iter().zip(near) {
        let name = near.shard.rsplit('/').next().expect("a name");
        let shard = format!("http://127.0.0.1:{}/data/{name}", server.port());
        assert_eq!(far, &output::Caption { shard, ..near.clone() });
    }

    // Errors speak of URLs too: a refusal, and a server that is not there.
    let refused = place.run(url("{00001..00003}"), "out").args(["--log-level", "debug"]).ends(3);
    refused.warns("00003.tar").warns("403");
    keeps_secrets(&refused, &out, &SECRETS);
    let closed = format!("http://me:{}@127.0.0.1:1/0.tar?sig={}", SECRETS[1], SECRETS[0]);
    let nobody = place.run(closed, "out").ends(1);
    keeps_secrets(&nobody, &out, &SECRETS);
    let said = recaption().arg("inspect").arg(&out).ends(0);
    keeps_secrets(&said, &out, &SECRETS);
}

#[test]
fn shards_that_differ_in_the_query_alone_are_never_taken_for_one() {
    let place = Place::new();
    let server = Server::start(HashMap::from([("/get".to_owned(), Answer::File(scenes(1, 2)))]));
    let url = |file: &str| format!("http://127.0.0.1:{}/get?file={file}", server.port());
    let said = place.run_all(&[url("one"), url("two")], "out").ends(2);
    said.warns("query").never_says("file=two");
}

#[test]
fn secrets_in_mistyped_assignments_are_kept() {
    let place = Place::new();
    let url = format!("output.ulr=https://me:{}@host/x?sig={}", SECRETS[1], SECRETS[0]);
    let said = place.run("in.tar", "out").set(&url).ends(2);
    keeps_secrets(&said, &place.path("out"), &SECRETS);
    said.warns("did you mean `output.url`");
}
