//! The selection graph against selection on the host, on random logits, for every strategy.

use ort::{memory::Allocator, value::Tensor};

use super::{
    super::{random::uniform, settings::SampleSettings},
    *,
};
use crate::runtime::{SessionOptions, load_library};

/// Not a multiple of a block, and one that is.
const VOCABULARIES: [usize; 2] = [600, 1024];
const ROWS: usize = 64;

/// A linear congruential generator.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 40) as f32 / (1_u64 << 24) as f32
    }
}

/// Peaked and flat rows of roughly normal logits without ties.
fn rows(vocab: usize, random: &mut Random) -> Vec<f32> {
    let mut logits = Vec::with_capacity(ROWS * vocab);
    for row in 0..ROWS {
        let spread = [1.0, 5.0, 20.0, 60.0][row % 4];
        logits.extend(
            (0..vocab)
                .map(|_| spread * (random.next() + random.next() + random.next() + random.next() - 2.0)),
        );
    }
    logits
}

fn on_device(logits: &[f32], vocab: usize) -> Tensor<f32> {
    let mut tensor =
        Tensor::<f32>::new(&Allocator::default(), [logits.len() / vocab, vocab]).expect("tensor");
    tensor.extract_tensor_mut().1.copy_from_slice(logits);
    tensor
}

fn selector(selection: TokenSelection, vocab: usize, max_ids: usize) -> (SelectionConfig, Selector) {
    load_library().expect("ONNX Runtime");
    let config = SelectionConfig { selection, banned: Some(0), end: vocab - 1 };
    let selector = Selector::build(&SessionOptions::on_cpu(1), config, vocab, max_ids).expect("a graph");
    (config, selector)
}

/// Questions of every kind, some rows idle.
fn requests(config: &SelectionConfig, max_ids: usize, round: usize) -> Vec<Option<LogitsRequest>> {
    let mut random = Random(round as u64 + 99);
    let force = !matches!(config.selection, TokenSelection::Best(count) if count > 1);
    let previous_ids = |random: &mut Random, row: usize| {
        let count = if config.has_repetition_penalty() { 1 + row % max_ids } else { 0 };
        // Few ids, so that some are repeated.
        (0..count).map(|_| (random.next() * 40.0) as i64).collect()
    };
    (0..ROWS)
        .map(|row| {
            (row % 7 != 3).then(|| LogitsRequest {
                forbid_end: row % 3 == 0,
                force_end: force && row % 11 == 5,
                uniform: uniform(5, row, round),
                previous_ids: previous_ids(&mut random, row),
            })
        })
        .collect()
}

/// All tokens equal the host's, but for at most `max_different` samples whose number lies within f32's rounding of a border.
fn compare(selection: TokenSelection, max_different: usize) {
    const MAX_IDS: usize = 6;
    const ROUNDS: usize = 8;
    for vocab in VOCABULARIES {
        let (config, mut selector) = selector(selection, vocab, MAX_IDS);
        let (mut random, mut requested, mut different) = (Random(3), 0, 0);
        for round in 0..ROUNDS {
            let logits = rows(vocab, &mut random);
            let requests = requests(&config, MAX_IDS, round);
            let got = selector.select(&on_device(&logits, vocab), &requests).expect("tokens");
            let want = select_on_host(&mut logits.clone(), &requests, &config).expect("tokens");
            for (row, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!(got.len(), want.len(), "{selection:?}, row {row}");
                assert_eq!(got.is_empty(), requests[row].is_none());
                requested += usize::from(!got.is_empty());
                different += usize::from(got.iter().zip(want).any(|(a, b)| a.id != b.id));
                for (a, b) in got.iter().zip(want).filter(|(a, b)| a.id == b.id) {
                    assert!(
                        (a.logprob - b.logprob).abs() < 2e-5,
                        "{selection:?}, row {row}: {a:?} and {b:?}"
                    );
                }
            }
        }
        println!("{selection:?}, vocabulary {vocab}: {different} of {requested} different");
        assert!(
            different <= max_different && requested > ROUNDS * ROWS / 2,
            "{selection:?}: {different} of {requested} different"
        );
    }
}

#[test]
fn best_tokens_equal_the_hosts() {
    [1, 2, 12, 600].into_iter().for_each(|count| compare(TokenSelection::Best(count), 0));
}

#[test]
fn samples_equal_the_hosts() {
    let plain = SampleSettings::default();
    for settings in [
        plain,
        SampleSettings { temperature: 0.7, ..plain },
        SampleSettings { temperature: 2.0, ..plain },
        SampleSettings { temperature: 1e-6, ..plain },
        SampleSettings { top_k: 1, ..plain },
        SampleSettings { top_k: 20, ..plain },
        SampleSettings { top_k: 400, ..plain },
        SampleSettings { top_k: 10_000, ..plain },
        SampleSettings { top_p: 0.9, ..plain },
        SampleSettings { top_p: 0.3, ..plain },
        SampleSettings { top_p: 1e-9, ..plain },
        SampleSettings { repetition_penalty: 1.5, ..plain },
        SampleSettings { repetition_penalty: 0.5, ..plain },
        SampleSettings { repetition_penalty: 1.3, temperature: 1.4, top_k: 100, top_p: 0.8 },
    ] {
        compare(TokenSelection::Sample(settings), 1);
    }
}

#[test]
fn ties_go_to_the_lower_id() {
    let mut row = vec![0.0; 600];
    for id in [599, 17, 300] {
        row[id] = 4.0;
    }
    let requested = [Some(LogitsRequest { forbid_end: true, ..LogitsRequest::default() })];
    for count in [1, 3] {
        let (config, mut selector) = selector(TokenSelection::Best(count), 600, 1);
        let got = selector.select(&on_device(&row, 600), &requested).expect("tokens");
        let ids: Vec<usize> = got[0].iter().map(|token| token.id).collect();
        assert_eq!(ids, [17, 300, 1][..count]);
        let want = select_on_host(&mut row.clone(), &requested, &config).expect("tokens");
        assert_eq!(ids, want[0].iter().map(|token| token.id).collect::<Vec<_>>());
    }
}

#[test]
fn non_finite_rows_fail_only_if_requested() {
    let selections = [
        TokenSelection::Best(1),
        TokenSelection::Best(4),
        TokenSelection::Sample(SampleSettings { top_p: 0.9, ..SampleSettings::default() }),
    ];
    let requested = Some(LogitsRequest { uniform: 0.5, ..LogitsRequest::default() });
    for selection in selections {
        let (_, mut selector) = selector(selection, 600, 1);
        let good = vec![0.5_f32; 600];
        for (at, poison) in [(0, f32::NAN), (599, f32::NAN), (300, f32::INFINITY), (0, f32::INFINITY)] {
            let mut bad = good.clone();
            bad[at] = poison;
            let both = on_device(&[good.clone(), bad].concat(), 600);
            let error =
                selector.select(&both, &[None, requested.clone()]).expect_err("not finite").to_string();
            assert!(error.contains("not finite numbers"), "{selection:?}, {poison} at {at}: {error}");
            assert!(selector.select(&both, &[requested.clone(), None]).is_ok(), "{selection:?}");
        }
        let nothing = on_device(&vec![f32::NEG_INFINITY; 600], 600);
        assert!(selector.select(&nothing, std::slice::from_ref(&requested)).is_err(), "{selection:?}");
        // Padding is all that is possible, and it is never selected.
        let mut padding = vec![f32::NEG_INFINITY; 600];
        padding[0] = 1.0;
        assert!(
            selector.select(&on_device(&padding, 600), std::slice::from_ref(&requested)).is_err(),
            "{selection:?}"
        );
        // An impossible token is not an error.
        padding[7] = 1.0;
        let got = selector
            .select(&on_device(&padding, 600), std::slice::from_ref(&requested))
            .expect("one is left");
        assert_eq!(got[0].iter().map(|token| token.id).collect::<Vec<_>>(), [7], "{selection:?}");
    }
}

/// Chi-squared of 20,000 samples of the graph against the warped softmax; none lies outside its support.
#[test]
fn sampling_graph_follows_the_warped_softmax() {
    const VOCAB: usize = 600;
    const SAMPLES: usize = 20_000;
    let settings = SampleSettings { repetition_penalty: 1.3, temperature: 1.4, top_k: 100, top_p: 0.8 };
    let logits: Vec<f32> =
        (0..VOCAB).map(|i| 6.0 - ((i * 263 % VOCAB) as f32).sqrt() * 0.7 - (i % 3) as f32 * 0.5).collect();
    let previous_ids = vec![3, 3, 5, 17, 299];
    let mut x: Vec<f64> = logits.iter().map(|v| f64::from(*v)).collect();
    for id in [3, 5, 17, 299] {
        x[id] *= if x[id] < 0.0 { 1.3_f32.into() } else { 1.0 / f64::from(1.3_f32) };
    }
    x[0] = f64::NEG_INFINITY;
    let mut order: Vec<usize> = (0..VOCAB).collect();
    order.sort_by(|a, b| x[*b].total_cmp(&x[*a]));
    order.truncate(100);
    let weight = |id: usize| (x[id] / 1.4).exp();
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let mut before = 0.0;
    order.retain(|id| {
        let kept = before < 0.8 * total;
        before += weight(*id);
        kept
    });
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let (_, mut selector) = selector(TokenSelection::Sample(settings), VOCAB, previous_ids.len());
    let batch = on_device(&logits.repeat(200), VOCAB);
    let mut counts = vec![0.0_f64; VOCAB];
    for round in 0..SAMPLES / 200 {
        let requested: Vec<Option<LogitsRequest>> = (0..200)
            .map(|row| {
                Some(LogitsRequest {
                    uniform: uniform(77, round, row),
                    previous_ids: previous_ids.clone(),
                    ..LogitsRequest::default()
                })
            })
            .collect();
        for tokens in selector.select(&batch, &requested).expect("tokens") {
            counts[tokens[0].id] += 1.0;
        }
    }
    let expected: Vec<f64> = order.iter().map(|id| weight(*id) / total * SAMPLES as f64).collect();
    assert_eq!(
        order.iter().map(|id| counts[*id]).sum::<f64>(),
        SAMPLES as f64,
        "sampled outside the support"
    );
    let chi: f64 = order.iter().zip(&expected).map(|(id, e)| (counts[*id] - e).powi(2) / e).sum();
    let freedom = (order.len() - 1) as f64;
    println!("chi-squared {chi:.1} with {freedom} degrees of freedom");
    assert!(expected.iter().all(|e| *e > 5.0) && chi < freedom + 4.0 * (2.0 * freedom).sqrt(), "{chi}");
}
