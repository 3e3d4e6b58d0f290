//! The same stories over every kind of store: a folder, S3 (moto; s3s-fs with `make test-s3s`), Azure (azurite) and Google
//! Cloud Storage (the stub). Shards and output lie in the same store. Whatever the store, the rows are the folder's.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{io::Cursor, sync::OnceLock, time::Duration};

use image::{DynamicImage, ImageFormat, RgbImage};
use serde_json::json;
use support::{
    Dice,
    bucket::Bucket,
    output::Rows,
    server::{Answer, Server},
    services::request,
    shards::{Pack, jpeg, scenes},
};

/// Parts above this size go up in pieces (`UPLOAD_BYTES` in stages/output/src/part_writer.rs).
const ONE_REQUEST: usize = 16 << 20;

/// A shard whose part is larger than one request: images that no codec makes smaller.
fn heavy() -> Vec<u8> {
    const SIDE: u32 = 1_500;
    let mut dice = Dice::new(16);
    let mut pack = Pack::new();
    for n in 0..3 {
        let pixels = dice.noise((SIDE * SIDE * 3) as usize);
        let picture = RgbImage::from_raw(SIDE, SIDE, pixels).expect("pixels of that size");
        let mut file = Cursor::new(Vec::new());
        DynamicImage::ImageRgb8(picture)
            .write_to(&mut file, ImageFormat::Bmp)
            .expect("pictures can be encoded");
        pack = pack.file(&format!("noise{n}.bmp"), file.into_inner()).file(&format!("noise{n}.txt"), "noise");
    }
    pack.close()
}

/// Two shards of scenes and the heavy one.
fn fill(bucket: &Bucket) {
    bucket.put("in/00000.tar", scenes(0, 40));
    bucket.put("in/00001.tar", scenes(1, 40));
    bucket.put("in/00002.tar", heavy());
}

/// What all stores must give for [`fill`]: the folder's rows.
fn wanted() -> &'static Rows {
    static WANTED: OnceLock<Rows> = OnceLock::new();
    WANTED.get_or_init(|| {
        let folder = Bucket::local();
        fill(&folder);
        folder.run("in", "out").set("output.images=embed").ends(0);
        folder.rows("out")
    })
}

fn rows_equal_a_folders_also_with_multipart_uploads(bucket: &Bucket) {
    fill(bucket);
    let report = bucket.run("in", "out").set("output.images=embed").ends(0).report();
    assert_eq!(report["shards_done"], json!(3), "{report:#}");
    assert_eq!(bucket.rows("out"), *wanted());
    assert_eq!(bucket.records("out").len(), 3);
    let parts = bucket.list("out/captions");
    let largest = parts.iter().map(|part| bucket.get(part).len()).max();
    assert!(largest > Some(ONE_REQUEST), "no part is larger than one request: {largest:?}");
}

fn finished_outputs_stay_and_changed_shards_are_redone(bucket: &Bucket) {
    (0..3).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 6)));
    bucket.run("in", "out").ends(0);
    let (before, records) = (bucket.rows("out"), bucket.records("out"));
    let report = bucket.run("in", "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(3), &json!(0)), "{report:#}");
    assert_eq!((bucket.rows("out"), bucket.records("out")), (before.clone(), records.clone()));

    bucket.put("in/00001.tar", scenes(41, 5));
    let report = bucket.run("in", "out").ends(0).report();
    assert_eq!((&report["shards_skipped"], &report["shards_done"]), (&json!(2), &json!(1)), "{report:#}");
    let (after, now) = (bucket.rows("out"), bucket.records("out"));
    assert_eq!(now.iter().filter(|record| records.contains(record)).count(), 2, "{now:?}");
    assert_eq!(now.len(), 3, "the old record of the changed shard is gone: {now:?}");
    let of = |rows: &Rows, shard: &str| {
        rows.captions.iter().filter(|row| row.shard == shard).cloned().collect::<Vec<_>>()
    };
    assert_eq!(of(&after, "00000.tar"), of(&before, "00000.tar"));
    assert_eq!(of(&after, "00002.tar"), of(&before, "00002.tar"));
    let keys: Vec<String> = of(&after, "00001.tar").into_iter().map(|row| row.key).collect();
    assert_eq!(keys, (0..5).map(|i| format!("00041{i:06}")).collect::<Vec<_>>());
}

fn other_configurations_need_overwrite(bucket: &Bucket) {
    (0..2).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 4)));
    bucket.run("in", "out").ends(0);
    let before = bucket.list("out");
    let refused = bucket.run("in", "out").set("caption.max_tokens=9").ends(2);
    refused.warns("`caption.max_tokens` was 35, is 9").warns("--overwrite");
    assert_eq!(bucket.list("out"), before, "something was changed");
    bucket.run("in", "out").set("caption.max_tokens=9").arg("--overwrite").ends(0);
    bucket.run("in", "fresh").set("caption.max_tokens=9").ends(0);
    assert_eq!(bucket.rows("out"), bucket.rows("fresh"));
    assert_eq!(bucket.records("out").len(), 2, "the old records are gone");
}

fn many_named_shards_are_found_by_one_listing(bucket: &Bucket) {
    let (shard, other) = (scenes(0, 1), scenes(1, 1));
    (0..80).for_each(|n| {
        bucket.put(&format!("in/{n:05}.tar"), if n == 7 { other.clone() } else { shard.clone() })
    });
    let shards = bucket.url("in/{00000..00081}.tar");
    // The folder too: what is named twice is read once.
    let report = bucket.run("in", "out").arg("--input").arg(&shards).ends(3).report();
    assert_eq!(
        (&report["shards_done"], &report["counts"]["captioned"]),
        (&json!(80), &json!(80)),
        "{report:#}"
    );
    let failed = report["shards_failed"].as_array().map(Vec::len);
    assert_eq!(failed, Some(2), "the two that are not there: {report:#}");
}

fn locks_exclude_others_and_expire_with_a_dead_run(bucket: &Bucket) {
    (0..30).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 8)));
    let run = || bucket.run("in", "out").arg("--lock").set("run.lock_seconds=4").set("run.threads=1");
    let mut first = run().start();
    let lock = "out/_recaption/lock.json";
    while first.is_alive() && bucket.list("out/_recaption").iter().all(|name| name != lock) {
        std::thread::yield_now();
    }
    run().ends(0).warns("is locked by process").warns("nothing was done");
    assert!(first.is_alive(), "the first run was to be under way still");
    first.kill();
    first.wait();
    run().ends(0).warns("is locked by process");
    // Renewed at least a second before it was killed: past four seconds later.
    std::thread::sleep(Duration::from_secs(5));
    let report = run().ends(0).report();
    assert_eq!(report["shards_incomplete"], json!(0), "{report:#}");
    assert_eq!(bucket.records("out").len(), 30);
    let report = run().ends(0).report();
    assert_eq!(report["shards_skipped"], json!(30), "a released lock blocks no run: {report:#}");
}

fn two_workers_at_once_leave_every_row_once(bucket: &Bucket) {
    (0..6).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 10)));
    // One shard after another: then both work on the same shard at the same time.
    let work = || bucket.run("in", "out").set("input.concurrent_shards=1").set("run.threads=1").start();
    let workers = [work(), work()];
    for said in workers.map(|worker| worker.wait()) {
        said.check(said.status.code() == Some(0), "exit code 0 was expected of both workers");
    }
    assert_eq!(bucket.records("out").len(), 6);
    let together = bucket.rows("out");
    let mut keys: Vec<_> = together.captions.iter().map(|row| &row.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), 60, "rows are lost or there twice");
    bucket.run("in", "alone").ends(0);
    assert_eq!(together, bucket.rows("alone"));
}

/// Two workers share a list, and when it becomes shorter nothing is left of what it was.
fn long_lists_are_split_into_shards(bucket: &Bucket) {
    let image = |n| (format!("/{n}.jpg"), Answer::File(jpeg(n)));
    let server = Server::start((0..60).map(image).collect());
    let list = |images: u64| {
        let row = |n| {
            format!("{{\"url\": \"http://127.0.0.1:{}/{n}.jpg\", \"key\": \"k{n:02}\"}}\n", server.port())
        };
        (0..images).map(row).collect::<String>().into_bytes()
    };
    for (images, shards) in [(60, 9), (24, 4)] {
        bucket.put("in/list.jsonl", list(images));
        let run = |out: &str| {
            let call = bucket.run("in", out).set("fetch.allow_private=true").set("input.concurrent_shards=1");
            call.set("input.rows_per_shard=7").set("run.threads=1")
        };
        for worker in [run("out").start(), run("out").start()].map(|worker| worker.wait()) {
            worker.check(worker.status.code() == Some(0), "exit code 0 was expected of both workers");
        }
        let keys: Vec<String> = bucket.rows("out").captions.into_iter().map(|row| row.key).collect();
        assert_eq!(keys, (0..images).map(|n| format!("k{n:02}")).collect::<Vec<_>>());
        assert_eq!(bucket.records("out").len(), shards);
        let report = run("out").ends(0).report();
        assert_eq!((&report["shards_skipped"], &report["shards_orphaned"]), (&json!(shards), &json!([])));
    }
}

/// All stories over a store.
macro_rules! over {
    ($($store:ident: $open:expr, $($(#[$attribute:meta])* $story:ident),+;)*) => {$(
        mod $store {
            use super::Bucket;
            $(#[test] $(#[$attribute])* fn $story() { super::$story(&$open); })+
        }
    )*};
}

over! {
    a_folder: Bucket::local(),
        rows_equal_a_folders_also_with_multipart_uploads,
        finished_outputs_stay_and_changed_shards_are_redone,
        other_configurations_need_overwrite,
        two_workers_at_once_leave_every_row_once;
    s3: Bucket::moto(),
        rows_equal_a_folders_also_with_multipart_uploads,
        finished_outputs_stay_and_changed_shards_are_redone,
        other_configurations_need_overwrite,
        two_workers_at_once_leave_every_row_once,
        long_lists_are_split_into_shards,
        locks_exclude_others_and_expire_with_a_dead_run,
        many_named_shards_are_found_by_one_listing,
        multipart_uploads_leave_nothing_behind;
    // One writer at a time; it takes minutes to compile.
    s3_with_signatures: Bucket::s3s(),
        #[ignore = "make test-s3s"]
        rows_equal_a_folders_also_with_multipart_uploads,
        #[ignore = "make test-s3s"]
        finished_outputs_stay_and_changed_shards_are_redone,
        #[ignore = "make test-s3s"]
        other_configurations_need_overwrite;
    azure: Bucket::azurite(),
        rows_equal_a_folders_also_with_multipart_uploads,
        finished_outputs_stay_and_changed_shards_are_redone,
        other_configurations_need_overwrite,
        two_workers_at_once_leave_every_row_once,
        long_lists_are_split_into_shards,
        locks_exclude_others_and_expire_with_a_dead_run;
    google: Bucket::gcs(),
        rows_equal_a_folders_also_with_multipart_uploads,
        finished_outputs_stay_and_changed_shards_are_redone,
        other_configurations_need_overwrite,
        two_workers_at_once_leave_every_row_once,
        long_lists_are_split_into_shards,
        locks_exclude_others_and_expire_with_a_dead_run;
}

fn multipart_uploads_leave_nothing_behind(bucket: &Bucket) {
    fill(bucket);
    bucket.run("in", "out").set("output.images=embed").ends(0);
    let port = bucket.service.as_ref().expect("a server").port();
    let (status, body) = support::services::ask(port, "GET", "/shards?uploads", &[]).expect("an answer");
    assert!(status == 200 && body.contains("ListMultipartUploadsResult"), "{status}: {body}");
    assert!(!body.contains("<UploadId>"), "{body}");
}

/// The renewal that is on its way when a run ends is no other run's.
#[test]
fn locks_are_released_while_being_renewed() {
    let bucket = Bucket::gcs();
    (0..30).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 50)));
    // Renewed a second after the last answer, which takes another one.
    bucket.gcs.as_ref().expect("the stub").hold_back_answers("/lock.json", Duration::from_secs(1));
    for out in ["out-1", "out-2"] {
        let run = || bucket.run("in", out).arg("--lock").set("run.lock_seconds=4").set("run.threads=1");
        run().ends(0).report();
        let report = run().ends(0).report();
        assert_eq!(report["shards_skipped"], json!(30), "{report:#}");
    }
}

#[test]
fn commit_records_are_put_conditionally() {
    let bucket = Bucket::gcs();
    (0..3).for_each(|n| bucket.put(&format!("in/{n:05}.tar"), scenes(n, 4)));
    bucket.run("in", "out").ends(0);
    let asked = bucket.gcs.as_ref().expect("the stub").asked();
    let puts = |folder: &str| {
        asked.iter().filter(|r| r.method == "PUT" && r.path.contains(folder)).collect::<Vec<_>>()
    };
    let records = puts("/_recaption/shards/");
    assert_eq!(records.len(), 3, "{records:?}");
    for record in records {
        assert_eq!(
            record.generation_match.as_deref(),
            Some("0"),
            "a record was put without a precondition: {record:?}"
        );
    }
    assert!(puts("/captions/").iter().all(|part| part.generation_match.is_none()));
}

#[test]
fn large_parts_are_multipart_uploads_that_complete() {
    let bucket = Bucket::gcs();
    fill(&bucket);
    bucket.run("in", "out").set("output.images=embed").ends(0);
    let stub = bucket.gcs.as_ref().expect("the stub");
    let pieces = stub.asked().iter().filter(|r| r.query.contains_key("partNumber")).count();
    assert!(pieces >= 2, "{pieces} pieces");
    assert_eq!(stub.open_uploads(), 0);
}

#[test]
fn completed_uploads_with_lost_responses_lose_no_shard() {
    let bucket = Bucket::gcs();
    fill(&bucket);
    let stub = bucket.gcs.as_ref().expect("the stub");
    stub.lose_the_next_completion();
    bucket.run("in", "out").set("output.images=embed").ends(0);
    let completions =
        stub.asked().into_iter().filter(|r| r.method == "POST" && r.query.contains_key("uploadId"));
    let answers: Vec<u16> = completions.map(|r| r.status).collect();
    assert_eq!(answers[..2], [200, 404], "the lost answer was not asked for again: {answers:?}");
    assert_eq!(bucket.rows("out"), *wanted());
}

#[test]
fn missing_buckets_are_one_clear_error() {
    let bucket = Bucket::moto();
    bucket.put("in/00000.tar", scenes(0, 4));
    let port = bucket.service.as_ref().expect("a server").port();
    assert_eq!(request(port, "GET", "/nowhere", &[]).ok(), Some(404));
    let said = bucket.run_into("in", "s3://nowhere/out").ends(1);
    said.warns("s3://nowhere/out").warns("there is no such bucket or container: check its name");
    said.never_says("<?xml").never_says("NoSuchBucket").never_says("tests-secret");
    let said = bucket.run("in", "out").arg("--input").arg("s3://nowhere/in/00001.tar").ends(3);
    said.warns("s3://nowhere/in/00001.tar").warns("there is no such object, or no such bucket");
    said.never_says("Error performing").never_says("tests-secret");
}

#[test]
fn http_endpoints_need_permission_before_any_request() {
    let bucket = Bucket::moto();
    bucket.put("in/00000.tar", scenes(0, 4));
    let said = bucket.run("in", "out").env("AWS_ALLOW_HTTP", "false").ends(2);
    said.warns("is not encrypted; set AWS_ALLOW_HTTP=true to allow http").never_says("retrying");
    assert!(bucket.list("out").is_empty(), "nothing was written");
}
