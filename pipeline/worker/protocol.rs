//! The lines of the protocol, version 1: what they are called and what they hold. `docs/src/worker-protocol.md` describes them.
//!
//! Within a version, fields are added and never removed or changed; unknown fields are ignored by both sides.

use recaption_schemas::{Counts, Damage, FailureClass, PartInfo};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of the protocol.
pub(super) const PROTOCOL: u32 = 1;

/// A line of the driver.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub(super) struct Request {
    /// URL or path of a shard, with its secrets; parts of lists as `URL#part=N`.
    pub shard: String,
    /// Whatever the driver knows the request by; the answer has it too.
    #[serde(default)]
    pub id: Value,
    /// Whether to wait for a shard that another worker has claimed.
    #[serde(default = "yes")]
    pub wait: bool,
    /// Why the shard is given up: it is recorded as failed and not read.
    #[serde(default)]
    pub give_up: Option<String>,
    /// How often it was tried, with `give_up`.
    #[serde(default)]
    pub attempts: Option<u32>,
}

fn yes() -> bool {
    true
}

impl Request {
    /// Parses a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(line: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8".to_owned())?;
        let request: Self = serde_json::from_str(text).map_err(|error| {
            // A request is one line, whose number is reported beside.
            format!("it is no request: {}", error.to_string().replace(" at line 1 column ", ", column "))
        })?;
        if request.shard.trim().is_empty() || request.shard.contains('\0') {
            return Err("it is no request: `shard` names no shard".to_owned());
        }
        if request.attempts == Some(0) {
            return Err("it is no request: `attempts` must be 1 or more".to_owned());
        }
        Ok(request)
    }
}

/// A line of the worker.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Answer {
    /// The first line: requests are worked on from now on.
    Ready(Ready),
    /// How a request ended.
    Shard(ShardAnswer),
    /// A line that is no request.
    Invalid {
        /// Its number, from 1.
        line: u64,
        /// What is wrong with it.
        error: String,
    },
    /// The last line of a worker that cannot go on.
    Fatal {
        /// What the driver can do about it.
        class: ErrorClass,
        /// What happened, with its causes.
        error: String,
    },
}

/// What the worker is.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ready {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Recaption's version.
    pub version: &'static str,
    /// Its process.
    pub pid: u32,
    /// Id of its record in `_recaption/runs`.
    pub run: String,
    /// URL of the output, redacted.
    pub output: String,
    /// Digest of the captioner.
    pub model: String,
    /// What computes: `cpu`, `cuda` or `tensorrt`.
    pub provider: &'static str,
    /// Requests to have outstanding, so that the models never wait.
    pub in_flight: usize,
}

/// How a request ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct ShardAnswer {
    /// As in the request; `null` without.
    pub id: Value,
    /// As in the request, redacted.
    pub shard: String,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Seconds from the request to its end.
    pub seconds: f64,
}

/// What became of a shard.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub(super) enum Outcome {
    /// Its rows are written.
    Committed(Box<CommittedShard>),
    /// An equal record was there before.
    AlreadyDone {
        /// Counts of its record.
        counts: Counts,
    },
    /// Another worker committed it meanwhile.
    DoneByOther {
        /// Whether this worker has computed it too.
        twice: bool,
    },
    /// Another worker has it, and the request did not want to wait.
    Claimed,
    /// It failed.
    Failed {
        /// Why.
        error: ShardError,
    },
    /// It is recorded as failed.
    GivenUp,
    /// The worker stops and did not begin it, or abandoned it.
    Stopped,
}

/// What was written of a shard.
#[derive(Clone, Debug, Serialize)]
pub(super) struct CommittedShard {
    /// Counts of its samples.
    pub counts: Counts,
    /// The captions part.
    pub captions: PartInfo,
    /// The rejects part.
    pub rejects: PartInfo,
    /// The webdataset part, where the output has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webdataset: Option<PartInfo>,
    /// Path of the commit record below the output.
    pub record: String,
    /// Set when the shard could be read only in part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Damage>,
    /// Whether another worker had put the same record first.
    pub twice: bool,
}

/// Why a shard failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct ShardError {
    /// What the driver can do about it.
    pub class: ErrorClass,
    /// Kind of the failure, as failure records have it.
    pub kind: FailureClass,
    /// What happened, redacted.
    pub message: String,
    /// How often this shard failed this way, by the failure record.
    pub attempts: u32,
}

/// What a driver can do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorClass {
    /// Try again: it may pass.
    Transient,
    /// Leave it: it fails the same way until the data or the machine changes.
    Permanent,
    /// Correct the configuration or the request.
    Configuration,
}

impl ErrorClass {
    /// Returns the class of a shard's failure.
    pub(super) fn of(kind: FailureClass) -> Self {
        if kind.is_transient() { Self::Transient } else { Self::Permanent }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn requests_have_defaults_and_ignore_unknown_fields() {
        let request = Request::parse(br#"{"shard":"s3://b/0.tar","added_later":1}"#).expect("a request");
        assert_eq!((request.id, request.wait, request.give_up), (Value::Null, true, None));
        let request = Request::parse(
            br#"{"shard":"a.tar","id":{"n":[1]},"wait":false,"give_up":"killed","attempts":3}"#,
        );
        let request = request.expect("a request");
        assert_eq!((request.id, request.wait), (json!({"n": [1]}), false));
        assert_eq!((request.give_up.as_deref(), request.attempts), (Some("killed"), Some(3)));
    }

    #[test]
    fn other_lines_are_refused_with_a_reason() {
        for (line, reason) in [
            (&b"no JSON"[..], "expected ident"),
            (b"{}", "missing field `shard`"),
            (b"[1]", "invalid type"),
            (br#"{"shard":7}"#, "expected a string"),
            (br#"{"shard":"  "}"#, "names no shard"),
            (br#"{"shard":"a\u0000b"}"#, "names no shard"),
            (br#"{"shard":"a","wait":"no"}"#, "expected a boolean"),
            (br#"{"shard":"a","give_up":"x","attempts":0}"#, "1 or more"),
            (br#"{"shard":"a","shard":"b"}"#, "duplicate field"),
            (br#"{"shard":"a"} {"shard":"b"}"#, "trailing characters"),
            (b"{\"shard\":\"\xff\"}", "not UTF-8"),
        ] {
            let error = Request::parse(line).expect_err("no request");
            assert!(error.contains(reason), "{error} lacks {reason}");
        }
    }

    #[test]
    fn answers_are_flat_objects() {
        let answer = |outcome| {
            let (id, shard, seconds) = (json!("x"), "a.tar".to_owned(), 0.5);
            serde_json::to_value(Answer::Shard(ShardAnswer { id, shard, outcome, seconds })).expect("JSON")
        };
        assert_eq!(
            answer(Outcome::DoneByOther { twice: true }),
            json!({"type": "shard", "id": "x", "shard": "a.tar", "outcome": "done_by_other", "twice": true, "seconds": 0.5})
        );
        assert_eq!(answer(Outcome::Stopped)["outcome"], "stopped");
        let error = ShardError {
            class: ErrorClass::of(FailureClass::Data),
            kind: FailureClass::Data,
            message: "cut".to_owned(),
            attempts: 2,
        };
        let failed = answer(Outcome::Failed { error });
        assert_eq!(
            failed["error"],
            json!({"class": "permanent", "kind": "data", "message": "cut", "attempts": 2})
        );
    }
}
