//! The selection graph against the host's choice, on random logits, for every strategy.

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

fn selector(choice: Choice, vocab: usize, longest: usize) -> (Rules, Selector) {
    load_library().expect("ONNX Runtime");
    let rules = Rules { choice, pad: 0, end: vocab - 1 };
    let selector = Selector::build(&SessionOptions::on_cpu(1), rules, vocab, longest).expect("a graph");
    (rules, selector)
}

/// Questions of every kind, some rows idle.
fn questions(rules: &Rules, longest: usize, round: usize) -> Vec<Option<Question>> {
    let mut random = Random(round as u64 + 99);
    let force = !matches!(rules.choice, Choice::Best(count) if count > 1);
    let said = |random: &mut Random, row: usize| {
        let count = if rules.penalises() { 1 + row % longest } else { 0 };
        // Few ids, so that some are said twice.
        (0..count).map(|_| (random.next() * 40.0) as i64).collect()
    };
    (0..ROWS)
        .map(|row| {
            (row % 7 != 3).then(|| Question {
                forbid_end: row % 3 == 0,
                force_end: force && row % 11 == 5,
                uniform: uniform(5, row, round),
                said: said(&mut random, row),
            })
        })
        .collect()
}

/// Every answer is the host's. Draws may differ where a number falls on a border, within f32's rounding of it: `most` of them.
fn compare(choice: Choice, most: usize) {
    const LONGEST: usize = 6;
    const ROUNDS: usize = 8;
    for vocab in VOCABULARIES {
        let (rules, mut selector) = selector(choice, vocab, LONGEST);
        let (mut random, mut asked, mut unlike) = (Random(3), 0, 0);
        for round in 0..ROUNDS {
            let logits = rows(vocab, &mut random);
            let questions = questions(&rules, LONGEST, round);
            let got = selector.answer_all(&on_device(&logits, vocab), &questions).expect("answers");
            let want = answer_all(&mut logits.clone(), &questions, &rules).expect("answers");
            for (row, (got, want)) in got.iter().zip(&want).enumerate() {
                assert_eq!(got.len(), want.len(), "{choice:?}, row {row}");
                assert_eq!(got.is_empty(), questions[row].is_none());
                asked += usize::from(!got.is_empty());
                unlike += usize::from(got.iter().zip(want).any(|(a, b)| a.id != b.id));
                for (a, b) in got.iter().zip(want).filter(|(a, b)| a.id == b.id) {
                    assert!((a.logprob - b.logprob).abs() < 2e-5, "{choice:?}, row {row}: {a:?} and {b:?}");
                }
            }
        }
        println!("{choice:?}, vocabulary {vocab}: {unlike} of {asked} unlike");
        assert!(unlike <= most && asked > ROUNDS * ROWS / 2, "{choice:?}: {unlike} of {asked} unlike");
    }
}

#[test]
fn the_best_are_the_hosts() {
    [1, 2, 12, 600].into_iter().for_each(|count| compare(Choice::Best(count), 0));
}

#[test]
fn draws_are_the_hosts() {
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
        compare(Choice::Draw(settings), 1);
    }
}

#[test]
fn equals_go_to_the_lower_id() {
    let mut row = vec![0.0; 600];
    for id in [599, 17, 300] {
        row[id] = 4.0;
    }
    let asked = [Some(Question { forbid_end: true, ..Question::default() })];
    for count in [1, 3] {
        let (rules, mut selector) = selector(Choice::Best(count), 600, 1);
        let got = selector.answer_all(&on_device(&row, 600), &asked).expect("answers");
        let ids: Vec<usize> = got[0].iter().map(|token| token.id).collect();
        assert_eq!(ids, [17, 300, 1][..count]);
        let want = answer_all(&mut row.clone(), &asked, &rules).expect("answers");
        assert_eq!(ids, want[0].iter().map(|token| token.id).collect::<Vec<_>>());
    }
}

#[test]
fn rows_that_are_not_numbers_are_errors_where_they_are_asked_about() {
    let choices = [
        Choice::Best(1),
        Choice::Best(4),
        Choice::Draw(SampleSettings { top_p: 0.9, ..SampleSettings::default() }),
    ];
    let asked = Some(Question { uniform: 0.5, ..Question::default() });
    for choice in choices {
        let (_, mut selector) = selector(choice, 600, 1);
        let good = vec![0.5_f32; 600];
        for (at, poison) in [(0, f32::NAN), (599, f32::NAN), (300, f32::INFINITY), (0, f32::INFINITY)] {
            let mut bad = good.clone();
            bad[at] = poison;
            let both = on_device(&[good.clone(), bad].concat(), 600);
            let error =
                selector.answer_all(&both, &[None, asked.clone()]).expect_err("no number").to_string();
            assert!(error.contains("not finite numbers"), "{choice:?}, {poison} at {at}: {error}");
            assert!(selector.answer_all(&both, &[asked.clone(), None]).is_ok(), "{choice:?}");
        }
        let nothing = on_device(&vec![f32::NEG_INFINITY; 600], 600);
        assert!(selector.answer_all(&nothing, std::slice::from_ref(&asked)).is_err(), "{choice:?}");
        // Padding is all that is possible, and is never chosen.
        let mut padding = vec![f32::NEG_INFINITY; 600];
        padding[0] = 1.0;
        assert!(
            selector.answer_all(&on_device(&padding, 600), std::slice::from_ref(&asked)).is_err(),
            "{choice:?}"
        );
        // An impossible token is no defect.
        padding[7] = 1.0;
        let got = selector
            .answer_all(&on_device(&padding, 600), std::slice::from_ref(&asked))
            .expect("one is left");
        assert_eq!(got[0].iter().map(|token| token.id).collect::<Vec<_>>(), [7], "{choice:?}");
    }
}

/// Chi-squared of 20,000 draws by the graph against the warped softmax; nothing outside its support, ever.
#[test]
fn the_graphs_draws_follow_the_warped_softmax() {
    const VOCAB: usize = 600;
    const DRAWS: usize = 20_000;
    let settings = SampleSettings { repetition_penalty: 1.3, temperature: 1.4, top_k: 100, top_p: 0.8 };
    let logits: Vec<f32> =
        (0..VOCAB).map(|i| 6.0 - ((i * 263 % VOCAB) as f32).sqrt() * 0.7 - (i % 3) as f32 * 0.5).collect();
    let said = vec![3, 3, 5, 17, 299];
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
        let stays = before < 0.8 * total;
        before += weight(*id);
        stays
    });
    let total: f64 = order.iter().map(|id| weight(*id)).sum();
    let (_, mut selector) = selector(Choice::Draw(settings), VOCAB, said.len());
    let batch = on_device(&logits.repeat(200), VOCAB);
    let mut counts = vec![0.0_f64; VOCAB];
    for round in 0..DRAWS / 200 {
        let asked: Vec<Option<Question>> = (0..200)
            .map(|row| {
                Some(Question { uniform: uniform(77, round, row), said: said.clone(), ..Question::default() })
            })
            .collect();
        for answer in selector.answer_all(&batch, &asked).expect("answers") {
            counts[answer[0].id] += 1.0;
        }
    }
    let expected: Vec<f64> = order.iter().map(|id| weight(*id) / total * DRAWS as f64).collect();
    assert_eq!(order.iter().map(|id| counts[*id]).sum::<f64>(), DRAWS as f64, "drawn outside the support");
    let chi: f64 = order.iter().zip(&expected).map(|(id, e)| (counts[*id] - e).powi(2) / e).sum();
    let freedom = (order.len() - 1) as f64;
    println!("chi-squared {chi:.1} with {freedom} degrees of freedom");
    assert!(expected.iter().all(|e| *e > 5.0) && chi < freedom + 4.0 * (2.0 * freedom).sqrt(), "{chi}");
}
