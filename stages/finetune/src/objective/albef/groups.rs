//! Texts in groups of about the same length. A group is padded to its own longest text, so that little of what is computed is
//! padding: alt texts have a few words, a description thirty.

use burn::tensor::{Device, Int, Tensor, TensorData};

use super::{masking::MaskedTexts, negatives::Negatives};
use crate::model::albef::{Encoders, TextBatch};

/// What a group costs beside its tokens, in tokens: every operation of a layer is called once per group.
const GROUP_COST: usize = 96;

/// Encoded texts of about the same length.
struct Group {
    /// Numbers of the texts in the batch, `n`.
    texts: Vec<usize>,
    /// Their lengths, `n`.
    lengths: Vec<usize>,
    /// Their tokens, `[n, T, W]`.
    tokens: Tensor<3>,
}

/// Encoded texts of a batch, in groups.
pub(super) struct EncodedTexts(Vec<Group>);

impl EncodedTexts {
    /// Encodes texts, ids without padding.
    pub(super) fn new(encoders: &Encoders<'_>, texts: &[Vec<i64>], pad: i64, device: &Device) -> Self {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        Self::in_groups(encoders, texts, groups(&lengths), pad, device)
    }

    /// Encodes texts in these groups.
    fn in_groups(
        encoders: &Encoders<'_>,
        texts: &[Vec<i64>],
        groups: Vec<Vec<usize>>,
        pad: i64,
        device: &Device,
    ) -> Self {
        let encode = |rows: Vec<usize>| {
            let ids: Vec<Vec<i64>> = rows.iter().map(|i| texts[*i].clone()).collect();
            let batch = TextBatch::new(&ids, pad, device);
            Group { tokens: encoders.text(&batch), lengths: batch.lengths, texts: rows }
        };
        Self(groups.into_iter().map(encode).collect())
    }

    /// Returns the texts' features in their order, `[N, E]`.
    pub(super) fn features(&self, encoders: &Encoders<'_>) -> Tensor<2> {
        let features = self.0.iter().map(|group| encoders.text_features(&group.tokens)).collect();
        let order: Vec<usize> = self.0.iter().flat_map(|group| group.texts.iter().copied()).collect();
        in_order(features, &order)
    }

    /// Decides which pairs belong together: each text with its own image, with its negative image, and each negative text with its
    /// image. Returns logits `[3 N, 2]` and, in the same order, whether each is a true pair.
    pub(super) fn matches(
        &self,
        encoders: &Encoders<'_>,
        image: &Tensor<3>,
        negatives: &Negatives,
    ) -> (Tensor<2>, Vec<usize>) {
        let (mut logits, mut labels) = (Vec::new(), Vec::new());
        for group in &self.0 {
            // Row of the group, image, label.
            let mut pairs = Vec::new();
            for (row, text) in group.texts.iter().enumerate() {
                pairs.extend([(row, *text, 1), (row, negatives.images[*text], 0)]);
                let images = negatives.texts.iter().enumerate().filter(|(_, other)| *other == text);
                pairs.extend(images.map(|(image, _)| (row, image, 0)));
            }
            let (rows, images): (Vec<usize>, Vec<usize>) = pairs.iter().map(|(row, i, _)| (*row, *i)).unzip();
            let lengths: Vec<usize> = rows.iter().map(|row| group.lengths[*row]).collect();
            let tokens = select(group.tokens.clone(), &rows);
            logits.push(encoders.matches(tokens, &lengths, select(image.clone(), &images)));
            labels.extend(pairs.iter().map(|(.., label)| *label));
        }
        (Tensor::cat(logits, 0), labels)
    }

    /// Fuses masked texts with their images, and predicts the masked words: logits `[M, V]` in the order of the labels.
    pub(super) fn words(
        &self,
        encoders: &Encoders<'_>,
        image: &Tensor<3>,
        masked: &MaskedTexts,
    ) -> Tensor<2> {
        let (mut tokens, mut order) = (Vec::new(), Vec::new());
        for group in &self.0 {
            let length = group.tokens.dims()[1];
            let row_of = |text: &usize| group.texts.iter().position(|other| other == text);
            // Number of the label, row of the fused tokens.
            let wanted: Vec<(usize, usize)> = (masked.labels.iter().enumerate())
                .filter_map(|(label, (text, at, _))| Some((label, row_of(text)? * length + at)))
                .collect();
            if wanted.is_empty() {
                continue;
            }
            let images = select(image.clone(), &group.texts);
            let fused = encoders.fuse(group.tokens.clone(), &group.lengths, images);
            let rows: Vec<usize> = wanted.iter().map(|(_, row)| *row).collect();
            tokens.push(select(fused, &rows));
            order.extend(wanted.iter().map(|(label, _)| *label));
        }
        encoders.words(in_order(tokens, &order))
    }
}

/// Divides texts of these lengths into groups, shorter ones first, with the fewest padded tokens when a group costs
/// [`GROUP_COST`]. Each group is the numbers of its texts.
fn groups(lengths: &[usize]) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|i| lengths[*i]);
    // Least cost of the first n texts, and where their last group begins.
    let mut best = vec![(0, 0)];
    for end in 1..=order.len() {
        let longest = lengths[order[end - 1]];
        let cost = |begin: usize| (best[begin].0 + (end - begin) * longest + GROUP_COST, begin);
        best.push((0..end).map(cost).min().unwrap_or_default());
    }
    let mut found = Vec::new();
    let mut end = order.len();
    while end > 0 {
        let begin = best[end].1;
        found.push(order[begin..end].to_vec());
        end = begin;
    }
    found.reverse();
    found
}

/// Selects rows of the first dimension.
fn select<const D: usize>(x: Tensor<D>, rows: &[usize]) -> Tensor<D> {
    let rows = indices(rows, &x.device());
    x.select(0, rows)
}

/// Joins parts of a batch whose rows are those of these numbers, and returns them in the order of the numbers, which are each of
/// 0 to n - 1 once.
fn in_order(parts: Vec<Tensor<2>>, numbers: &[usize]) -> Tensor<2> {
    let all = Tensor::cat(parts, 0);
    if numbers.is_sorted() {
        return all;
    }
    let mut rows = vec![0; numbers.len()];
    numbers.iter().enumerate().for_each(|(row, number)| rows[*number] = row);
    select(all, &rows)
}

/// Copies indices to a device, `[n]`.
pub(super) fn indices(values: &[usize], device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.iter().map(|i| *i as i64).collect();
    let n = values.len();
    Tensor::from_data(TensorData::new(values, [n]), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        albef_files::AlbefFiles,
        batch::{Batch, PatchSettings},
        model::{Parameters, albef::Albef},
    };

    #[test]
    fn texts_of_one_length_are_one_group() {
        assert_eq!(groups(&[7; 5]), [[0, 1, 2, 3, 4]]);
        assert_eq!(groups(&[3, 4, 3]), [[0, 2, 1]]);
        assert!(groups(&[]).is_empty());
    }

    #[test]
    fn short_texts_are_not_padded_to_the_long_ones() {
        let lengths: Vec<usize> = (0..64).map(|i| if i % 4 == 0 { 30 - i % 3 } else { 5 + i % 2 }).collect();
        let found = groups(&lengths);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].iter().all(|i| lengths[*i] <= 6) && found[1].iter().all(|i| lengths[*i] >= 28));
        let mut all = found.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..64));
    }

    #[test]
    fn no_other_grouping_costs_less() {
        let mut random = crate::random::Random::new(3, &[]);
        for _ in 0..50 {
            let lengths: Vec<usize> = (0..9).map(|_| 1 + random.below(120)).collect();
            let cost = |groups: &[Vec<usize>]| -> usize {
                let longest = |g: &Vec<usize>| g.iter().map(|i| lengths[*i]).max().unwrap_or(0);
                groups.iter().map(|g| g.len() * longest(g) + GROUP_COST).sum()
            };
            let mut order: Vec<usize> = (0..9).collect();
            order.sort_by_key(|i| lengths[*i]);
            // Every set of cuts between the nine texts in order of length.
            let all = (0..256_u32).map(|cuts| {
                let mut parts = vec![Vec::new()];
                for (at, i) in order.iter().enumerate() {
                    if at > 0 && cuts >> (at - 1) & 1 == 1 {
                        parts.push(Vec::new());
                    }
                    parts.last_mut().expect("one").push(*i);
                }
                cost(&parts)
            });
            assert_eq!(Some(cost(&groups(&lengths))), all.min());
        }
    }

    /// Groups change how much is padding, and nothing that is computed.
    #[test]
    fn groups_compute_what_one_group_computes() {
        let device = Device::flex();
        let recipe = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes/scenes-albef");
        let files = AlbefFiles::initialise(&recipe, None, 1).expect("a configuration");
        let frozen = vec![false; files.list.len()];
        let parameters = Parameters::new(files.list, files.values, &frozen, &device);
        let model = Albef { config: files.config, parameters };
        let (encoders, count) = (model.encoders(), 24);
        let texts: Vec<Vec<i64>> = (0..count)
            .map(|i| {
                (0..if i % 3 == 0 { 28 } else { 4 + i % 2 })
                    .map(move |at| 5 + ((i * 31 + at * 7) % 150) as i64)
            })
            .map(Iterator::collect)
            .collect();
        let side = model.config.image_res;
        let pixels: Vec<u8> = (0..count * side * side * 3).map(|i| (i * 7919 % 251) as u8).collect();
        let keys = texts.iter().map(|_| String::new()).collect();
        let batch = Batch { keys, pixels, ids: texts.clone() };
        let image = encoders.image(batch.patches(&PatchSettings::of_albef(&model.config), &device));
        let negatives = Negatives {
            images: (0..count).map(|i| (i + 5) % count).collect(),
            texts: (0..count).map(|i| (i * 7 + 3) % count).collect(),
        };
        let labels = [(1, 2, 9), (0, 20, 8), (22, 1, 7), (3, 0, 6)].to_vec();
        let masked = MaskedTexts { ids: texts.clone(), labels };
        let compute = |groups: Vec<Vec<usize>>| {
            let texts = EncodedTexts::in_groups(&encoders, &texts, groups, 0, &device);
            let (logits, labels) = texts.matches(&encoders, &image, &negatives);
            let mut pairs: Vec<(usize, Vec<f32>)> =
                labels.into_iter().zip(values(logits).chunks(2).map(<[f32]>::to_vec)).collect();
            pairs.sort_by(|a, b| a.partial_cmp(b).expect("finite"));
            let pairs: Vec<f32> =
                pairs.into_iter().flat_map(|(label, x)| [label as f32, x[0], x[1]]).collect();
            [values(texts.features(&encoders)), pairs, values(texts.words(&encoders, &image, &masked))]
        };
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        assert!(groups(&lengths).len() > 1);
        let (grouped, whole) = (compute(groups(&lengths)), compute(vec![(0..count).collect()]));
        for (what, (a, b)) in ["features", "matches", "words"].iter().zip(grouped.iter().zip(&whole)) {
            assert_eq!(a.len(), b.len(), "{what}");
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{what}: off by {worst:e}");
        }
    }

    fn values(x: Tensor<2>) -> Vec<f32> {
        x.into_data_as::<f32>().try_into_vec().expect("floats")
    }

    #[test]
    fn parts_are_put_in_order() {
        let device = Device::flex();
        let parts = vec![Tensor::from_floats([[2.0], [0.0]], &device), Tensor::from_floats([[1.0]], &device)];
        let joined = in_order(parts, &[2, 0, 1]).into_data_as::<f32>().try_into_vec::<f32>();
        assert_eq!(joined.expect("floats"), [0.0, 1.0, 2.0]);
    }
}
