//! stdin -> requests: a thread that reads lines, and a bound on how many are worked on.
//!
//! A line holds a permit from when it is taken until its answer is written. A driver that sends millions of lines at once waits in
//! its own write; one that never reads its answers stops being read.

use std::{
    io::{self, BufRead},
    sync::Arc,
};

use recaption_schemas::redact_text;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::protocol::Request;

/// Longest line, bytes: a presigned URL has up to 2,000.
pub(super) const MAX_LINE: usize = 64 << 10;
/// Lines that are taken and not answered.
const MAX_OUTSTANDING: usize = 1024;
/// Lines that the thread has read ahead.
const READ_AHEAD: usize = 16;

/// A line of the driver.
#[derive(Debug)]
pub(super) struct Line {
    /// Its number, from 1.
    pub number: u64,
    /// The request, or what is wrong with the line.
    pub request: Result<Request, String>,
}

/// The lines of stdin.
#[derive(Debug)]
pub(super) struct Lines {
    lines: mpsc::Receiver<Line>,
    places: Arc<Semaphore>,
    /// A place that was taken before a line came.
    place: Option<OwnedSemaphorePermit>,
}

impl Lines {
    /// Starts to read `input` on a thread of its own, which ends with the input.
    ///
    /// # Errors
    /// When the operating system starts no thread.
    pub(super) fn start(input: impl BufRead + Send + 'static) -> io::Result<Self> {
        let (sender, lines) = mpsc::channel(READ_AHEAD);
        std::thread::Builder::new().name("requests".into()).spawn(move || read_all(input, &sender))?;
        Ok(Self { lines, places: Arc::new(Semaphore::new(MAX_OUTSTANDING)), place: None })
    }

    /// Waits for the next line, once there is a place for it; `None` at the end of the input. Nothing is lost when the future is
    /// dropped.
    pub(super) async fn next(&mut self) -> Option<(Line, OwnedSemaphorePermit)> {
        if self.place.is_none() {
            self.place = Arc::clone(&self.places).acquire_owned().await.ok();
        }
        let line = self.lines.recv().await?;
        Some((line, self.place.take()?))
    }

    /// Takes a line that was read already, if there is a place for it.
    pub(super) fn try_next(&mut self) -> Option<(Line, OwnedSemaphorePermit)> {
        let place = self.place.take().or_else(|| Arc::clone(&self.places).try_acquire_owned().ok())?;
        Some((self.lines.try_recv().ok()?, place))
    }
}

/// Reads lines until the input ends or nobody takes them any more.
fn read_all(mut input: impl BufRead, lines: &mpsc::Sender<Line>) {
    for number in 1.. {
        let request = match read_line(&mut input) {
            Ok(Some(Ok(line))) if line.trim_ascii().is_empty() => continue,
            Ok(Some(Ok(line))) => Request::parse(&line).map_err(|error| redact_text(&error)),
            Ok(Some(Err(TooLong))) => Err(format!("it has more than {MAX_LINE} bytes")),
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, "stdin cannot be read; taking it as ended");
                return;
            }
        };
        if lines.blocking_send(Line { number, request }).is_err() {
            return;
        }
    }
}

/// A line that is longer than [`MAX_LINE`].
#[derive(Debug, PartialEq, Eq)]
struct TooLong;

/// Reads a line without its end, the last one with or without a line feed; `None` at the end. Of a line that is too long no more
/// is held than of others.
fn read_line(input: &mut impl BufRead) -> io::Result<Option<Result<Vec<u8>, TooLong>>> {
    let (mut line, mut length) = (Vec::new(), 0_usize);
    loop {
        let buffer = match input.fill_buf() {
            Ok(buffer) => buffer,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if buffer.is_empty() && length == 0 {
            return Ok(None);
        }
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let taken = end.unwrap_or(buffer.len());
        length = length.saturating_add(taken);
        if length <= MAX_LINE {
            line.extend_from_slice(&buffer[..taken]);
        }
        let is_over = end.is_some() || buffer.is_empty();
        input.consume(taken + usize::from(end.is_some()));
        if is_over {
            return Ok(Some(if length <= MAX_LINE { Ok(line) } else { Err(TooLong) }));
        }
        // A line feed alone is a line too.
        length = length.max(1);
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn lines(text: &[u8]) -> Vec<Result<Vec<u8>, TooLong>> {
        let mut input = BufReader::with_capacity(7, text);
        std::iter::from_fn(|| read_line(&mut input).expect("bytes")).collect()
    }

    #[test]
    fn lines_end_with_or_without_a_line_feed() {
        assert_eq!(
            lines(b"a\n\nlonger than a buffer\nlast"),
            [Ok(b"a".to_vec()), Ok(Vec::new()), Ok(b"longer than a buffer".to_vec()), Ok(b"last".to_vec()),]
        );
        assert_eq!(lines(b""), []);
        assert_eq!(lines(b"a\n"), [Ok(b"a".to_vec())]);
    }

    #[test]
    fn lines_that_are_too_long_are_dropped_whole() {
        let longest = vec![b'x'; MAX_LINE];
        let text = [&longest[..], b"\n", &longest, b"y\nnext\n"].concat();
        assert_eq!(lines(&text), [Ok(longest), Err(TooLong), Ok(b"next".to_vec())]);
    }

    #[tokio::test]
    async fn lines_are_numbered_and_secrets_stay_out_of_errors() {
        let text =
            b"\n{\"shard\":\"a\"}\n{\"shard\":\"https://u:p@h/x?sig=s\",\"wait\":\"https://h/y?sig=s\"}";
        let mut input = Lines::start(&text[..]).expect("a thread");
        let (line, _) = input.next().await.expect("a line");
        assert_eq!((line.number, line.request.expect("a request").shard.as_str()), (2, "a"));
        let (line, _) = input.next().await.expect("a line");
        let error = line.request.expect_err("no request");
        assert_eq!(line.number, 3);
        assert!(error.contains("https://h/y") && !error.contains("sig"), "{error}");
        assert!(input.next().await.is_none());
    }

    #[tokio::test]
    async fn unanswered_lines_are_bounded() {
        let text = b"{\"shard\":\"a\"}\n".repeat(MAX_OUTSTANDING + 1);
        let mut input = Lines::start(std::io::Cursor::new(text)).expect("a thread");
        let mut held = Vec::new();
        for _ in 0..MAX_OUTSTANDING {
            held.push(input.next().await.expect("a line").1);
        }
        let waited = tokio::time::timeout(std::time::Duration::from_millis(50), input.next()).await;
        assert!(waited.is_err(), "there is no place for another line");
        held.pop();
        drop(input.next().await.expect("the last line"));
    }
}
