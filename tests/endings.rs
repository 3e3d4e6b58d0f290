//! Runs end on any input, and their messages are harmless.

#![allow(clippy::expect_used, reason = "a test's helpers fail by panicking")]

mod support;

use std::{
    fs::File,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::net::UnixListener,
    process::{Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde_json::json;
use support::{
    Place,
    program::recaption,
    shards::{Pack, scenes},
};

fn fifo(place: &Place, name: &str) -> std::path::PathBuf {
    let path = place.path(name);
    let made = Command::new("mkfifo").arg(&path).status();
    assert!(made.expect("`mkfifo` starts").success());
    path
}

#[test]
fn pipes_sockets_and_devices_are_refused_by_name() {
    let place = Place::new();
    let good = place.draw("in", 1, 4).join("00000.tar");
    let (pipe, socket) = (fifo(&place, "p.tar"), place.path("s.tar"));
    let _listener = UnixListener::bind(&socket).expect("a socket");
    let zero = std::path::PathBuf::from("/dev/zero");
    let said = place.run_all(&[good, pipe.clone(), socket, zero], "out").ends(3);
    said.warns("p.tar: it is a named pipe").warns("s.tar: it is a socket").warns("/dev/zero: it is a device");
    assert_eq!(said.report()["shards_done"], json!(1));
    place.run(format!("@{}", pipe.display()), "list").ends(2).warns("a named pipe");
    recaption().arg("caption").arg(support::model()).arg("/dev/zero").ends(1).warns("no regular file");
}

/// A server of one tar, which answers GET by `send`.
fn serve(
    tar: Vec<u8>,
    headers: &'static str,
    send: fn(&mut TcpStream, &[u8], usize),
) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let gets = Arc::new(AtomicUsize::new(0));
    let (count, tar) = (Arc::clone(&gets), Arc::new(tar));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let (count, tar) = (Arc::clone(&count), Arc::clone(&tar));
            thread::spawn(move || {
                let mut request = [0; 4096];
                let read = stream.read(&mut request).unwrap_or(0);
                let text = String::from_utf8_lossy(&request[..read]).into_owned();
                let range = text
                    .lines()
                    .find_map(|l| l.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
                let from = range.and_then(|r| r.split('-').next()?.parse().ok()).unwrap_or(0_usize);
                let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nContent-Range: bytes {from}-{}/{}\r\n{headers}Connection: close\r\n\r\n",
                    tar.len() - from,
                    tar.len() - 1,
                    tar.len()
                );
                let _ = stream.write_all(head.as_bytes());
                if text.starts_with("GET") {
                    send(&mut stream, &tar[from..], count.fetch_add(1, SeqCst));
                }
            });
        }
    });
    (port, gets)
}

const TAGGED: &str = "ETag: \"1\"\r\n";

#[test]
fn servers_below_the_minimum_throughput_fail() {
    let place = Place::new();
    let (port, _) = serve(scenes(0, 20), TAGGED, |stream, bytes, _| {
        for byte in bytes {
            if stream.write_all(&[*byte]).is_err() {
                return;
            }
            sleep(Duration::from_millis(500));
        }
    });
    let began = Instant::now();
    let run = place.run(format!("http://127.0.0.1:{port}/a.tar"), "out");
    run.set("store.timeout_seconds=1")
        .set("store.retries=0")
        .ends(3)
        .warns("less than the minimum of 1024 bytes per second");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[test]
fn servers_that_always_break_early_fail() {
    let place = Place::new();
    let (port, gets) = serve(scenes(0, 40), TAGGED, |stream, bytes, _| {
        let _ = stream.write_all(&bytes[..bytes.len().min(100)]);
    });
    let run = place.run(format!("http://127.0.0.1:{port}/a.tar"), "out");
    run.set("store.timeout_seconds=1").set("store.retries=1").ends(3);
    assert!(gets.load(SeqCst) < 40, "{gets:?} requests");
}

/// Two shards of one size; the server changes from one to the other when a connection broke.
#[test]
fn versions_without_validators_are_never_mixed() {
    static NOW: Mutex<u64> = Mutex::new(0);
    let shard = |shade: u8| {
        let mut bmp = b"BM\x36\x30\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\x40\0\0\0\x40\0\0\0\x01\0\x18\0".to_vec();
        bmp.resize(54, 0);
        bmp.resize(54 + 64 * 64 * 3, shade);
        (0..40).fold(Pack::new(), |pack, n| pack.file(&format!("{n:03}.bmp"), &bmp)).close()
    };
    static SHARDS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    *SHARDS.lock().expect("shards") = vec![shard(10), shard(200)];
    let length = shard(10).len();
    let (port, _) = serve(vec![0; length], "", |stream, rest, get| {
        let now = *NOW.lock().expect("a number") as usize;
        let from = length_of(rest);
        let bytes = SHARDS.lock().expect("shards")[now][from..].to_vec();
        if get == 0 {
            let _ = stream.write_all(&bytes[..bytes.len() / 2]);
            *NOW.lock().expect("a number") = 1;
        } else {
            let _ = stream.write_all(&bytes);
        }
    });
    fn length_of(rest: &[u8]) -> usize {
        SHARDS.lock().expect("shards")[0].len() - rest.len()
    }
    let place = Place::new();
    let run = || place.run(format!("http://127.0.0.1:{port}/a.tar"), "out").set("output.images=embed");
    let shades = || {
        let rows = support::output::read(&place.path("out")).captions;
        rows.into_iter().map(|row| row.image.expect("embedded").0[60]).collect::<Vec<_>>()
    };
    run().ends(0).warns("neither ETag nor Last-Modified");
    assert_eq!(shades(), [200; 40], "a mixture of two versions");
    assert_eq!(run().ends(0).report()["shards_skipped"], json!(1));
    *NOW.lock().expect("a number") = 0;
    assert_eq!(run().ends(0).report()["shards_done"], json!(1), "the change was not noticed");
    assert_eq!(shades(), [10; 40]);
}

#[test]
fn sigterm_works_while_planning_and_twice_at_once() {
    let place = Place::new();
    // No answer ever comes.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = silent.local_addr().expect("an address").port();
    let url = format!("http://127.0.0.1:{port}/a.tar");
    let term = |id: u32| {
        let sent = Command::new("kill").arg("-TERM").arg(id.to_string()).status();
        assert!(sent.expect("`kill` starts").success());
    };
    let run = place.run(&url, "out").start();
    sleep(Duration::from_secs(2));
    let pressed = Instant::now();
    term(run.id());
    let said = run.wait();
    assert!(pressed.elapsed() < Duration::from_secs(3), "{:?}", pressed.elapsed());
    said.check(said.status.code() == Some(1), "exit code 1 was expected");
    // And in the middle of a shard that does not come.
    let (port, gets) = serve(scenes(0, 40), TAGGED, |stream, bytes, _| {
        let _ = stream.write_all(&bytes[..1000]);
        sleep(Duration::from_secs(60));
    });
    let run = place.run(format!("http://127.0.0.1:{port}/a.tar"), "other").start();
    while gets.load(SeqCst) == 0 {
        sleep(Duration::from_millis(10));
    }
    sleep(Duration::from_millis(300));
    term(run.id());
    sleep(Duration::from_millis(300));
    term(run.id());
    let pressed = Instant::now();
    run.wait();
    assert!(pressed.elapsed() < Duration::from_millis(1500), "{:?}", pressed.elapsed());
}

#[test]
fn redirects_send_no_referer_to_the_other_host() {
    let place = Place::new();
    let seen = Arc::new(Mutex::new(String::new()));
    let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
    let (first, second) = (listen(), listen());
    let port = |listener: &TcpListener| listener.local_addr().expect("an address").port();
    let (from, to) = (port(&first), port(&second));
    let answer = |mut stream: TcpStream, text: &[u8]| {
        let mut request = [0; 4096];
        let read = stream.read(&mut request).unwrap_or(0);
        let _ = stream.write_all(text);
        String::from_utf8_lossy(&request[..read]).into_owned()
    };
    thread::spawn(move || {
        let text = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://localhost:{to}/x.tar\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
        for stream in first.incoming().flatten() {
            answer(stream, text.as_bytes());
        }
    });
    let heard = Arc::clone(&seen);
    let tar = scenes(0, 3);
    thread::spawn(move || {
        let head = format!(
            "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            tar.len()
        );
        let text = [head.as_bytes(), &tar].concat();
        for stream in second.incoming().flatten() {
            heard.lock().expect("text").push_str(&answer(stream, &text));
        }
    });
    let url = format!("http://u:PASSWORD@127.0.0.1:{from}/a.tar?X-Amz-Signature=SECRET");
    place.run(url, "out").ends(0).never_says("SECRET").never_says("PASSWORD");
    let heard = seen.lock().expect("text").clone();
    assert!(
        heard.contains("GET /x.tar") && !heard.contains("SECRET") && !heard.contains("PASSWORD"),
        "{heard}"
    );
}

#[test]
fn unprintable_output_is_an_error_and_escaped() {
    let place = Place::new();
    let input = place.draw("in", 1, 3);
    place.run(&input, "out").ends(0);
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let mut call = Command::new(env!("CARGO_BIN_EXE_recaption"));
    let status = call.arg("status").arg(place.path("out")).stdout(full).stderr(Stdio::null()).status();
    assert_eq!(status.expect("the program starts").code(), Some(1));
    let strange = place.write("\u{1b}[2Jx.tar", b"no tar");
    let said = place.run(&strange, "strange").arg("--log-format").arg("text").ends(3);
    said.warns("x1B[2Jx.tar").never_says("\u{1b}[2J");
    place.run(&input, "out").arg("--since").arg("2999-01-01").ends(2).warns("lies in the future");
}

#[test]
fn decoder_panics_are_logged_and_counted() {
    let place = Place::new();
    let seed = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
        std::fs::read(path).expect("a seed")
    };
    let names = ["webp-panic-yuv-93.webp", "webp-panic-yuv-147.webp", "webp-panic-decoder-858.webp"];
    let pack = names.iter().fold(Pack::new(), |pack, name| pack.file(name, seed(name)));
    let shard = place.write("a.tar", pack.close());
    let said = place.run(&shard, "out").set("run.max_failure_ratio=1").ends(0);
    said.log();
    let report = said.report();
    assert_eq!(report["counts"]["reasons"]["corrupt_image"], json!(3), "{report:#}");
    assert!(report["decoder_panics"].as_u64() >= Some(1), "{report:#}");
}

#[test]
fn images_beyond_the_memory_limit_are_rejects() {
    let place = Place::new();
    let tar = Pack::new().file("0.jpg", support::shards::jpeg(1)).close();
    let shard = place.write("a.tar", tar);
    let tight = || place.run(&shard, "out").set("input.decode_bytes=1048576");
    tight().ends(0);
    // 600 x 600 pixels at four bytes do not fit in a megabyte.
    let mut file = std::io::Cursor::new(Vec::new());
    image::DynamicImage::new_rgba8(600, 600).write_to(&mut file, image::ImageFormat::Png).expect("a picture");
    let shard = place.write("b.tar", Pack::new().file("0.png", file.into_inner()).close());
    let report = place.run(&shard, "big").set("input.decode_bytes=1048576").ends(0).report();
    assert_eq!(report["counts"]["reasons"]["too_many_pixels"], json!(1), "{report:#}");
}
