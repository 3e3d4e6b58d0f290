//! The three losses of a part of a batch.

use burn::tensor::{
    Tensor, TensorData,
    activation::{log_softmax, softmax},
};

use super::{
    groups::{EncodedTexts, indices},
    masking::MaskedTexts,
    negatives::{Negatives, draw_negatives},
};
use crate::{
    model::albef::{Albef, Encoders, table},
    random::Random,
};

/// What the losses of a part are computed from.
#[derive(Debug)]
pub struct AlbefInputs<'a> {
    /// Patches of normalised pixels, `[N, G * G, 3 * P * P]`, on a device with autodiff.
    pub patches: Tensor<3>,
    /// Ids of the texts, N of them, without padding.
    pub texts: &'a [Vec<i64>],
    /// The same texts with masked tokens.
    pub masked: &'a MaskedTexts,
    /// The negatives; `None` draws them.
    pub negatives: Option<Negatives>,
    /// Share of the momentum copy's targets, [0, 1].
    pub alpha: f64,
}

/// The losses of a part, `[1]` each, and the features to enqueue.
#[derive(Debug)]
pub struct AlbefLosses {
    /// Contrast of images and texts (ITC; `loss_ita` in the authors' code).
    pub contrastive: Tensor<1>,
    /// Matching of images and texts (ITM).
    pub matching: Tensor<1>,
    /// Masked words (MLM); `None` where no token is masked.
    pub words: Option<Tensor<1>>,
    /// Features of the momentum copy, images and texts, `[N, E]` each, without autodiff.
    pub momentum_features: [Tensor<2>; 2],
}

/// Outputs of the momentum copy, without autodiff.
struct MomentumOutput {
    image: Tensor<3>,
    features: [Tensor<2>; 2],
}

/// Computes the losses of a part of at least two samples; `random` draws the negatives. Temperature and momentum copy have been
/// updated before.
#[must_use]
pub fn losses(model: &Albef, inputs: AlbefInputs<'_>, random: &mut Random) -> AlbefLosses {
    let AlbefInputs { patches, texts, masked, negatives, alpha } = inputs;
    let device = patches.device();
    let (count, pad) = (texts.len(), model.config.special_ids.pad);
    let plain = model.without_autodiff();
    let momentum = momentum_output(&plain, patches.clone().without_autodiff(), texts);

    let encoders = model.encoders();
    let image = encoders.image(patches);
    let text = EncodedTexts::new(&encoders, texts, pad, &device);
    let features = [encoders.image_features(&image), text.features(&encoders)];
    let (contrastive, similarities) = contrast(model, &plain, features, &momentum.features, alpha);

    let negatives = negatives.unwrap_or_else(|| {
        let [image_to_text, text_to_image] = similarities;
        draw_negatives(&in_batch(text_to_image, count), &in_batch(image_to_text, count), texts, random)
    });
    let matching = matching(&encoders, &image, &text, &negatives);
    let words = (!masked.labels.is_empty()).then(|| {
        let target = (alpha > 0.0).then(|| word_targets(&plain, &momentum.image, masked));
        words(model, &image, masked, target, alpha)
    });
    AlbefLosses { contrastive, matching, words, momentum_features: momentum.features }
}

fn momentum_output(plain: &Albef, patches: Tensor<3>, texts: &[Vec<i64>]) -> MomentumOutput {
    let (encoders, device) = (plain.momentum_encoders(), patches.device());
    let image = encoders.image(patches);
    let text = EncodedTexts::new(&encoders, texts, plain.config.special_ids.pad, &device);
    let features = [encoders.image_features(&image), text.features(&encoders)];
    MomentumOutput { image, features }
}

/// Computes ITC over batch and queue: the loss, and the similarities by temperature of images to texts and of texts to images,
/// `[N, N + Q]`.
fn contrast(
    model: &Albef,
    plain: &Albef,
    [image, text]: [Tensor<2>; 2],
    [image_m, text_m]: &[Tensor<2>; 2],
    alpha: f64,
) -> (Tensor<1>, [Tensor<2>; 2]) {
    let all = |features: &Tensor<2>, queue: &str| {
        Tensor::cat(vec![features.clone().transpose(), plain.queue(queue)], 1)
    };
    let (images, texts) = (all(image_m, table::IMAGE_QUEUE), all(text_m, table::TEXT_QUEUE));
    let direction = |features: Tensor<2>, momentum: &Tensor<2>, all: &Tensor<2>| {
        let target = contrast_targets(plain, momentum, all, alpha);
        let similarity = features.matmul(all.clone().autodiff()) / model.temperature().unsqueeze();
        let loss = (log_softmax(similarity.clone(), 1) * target.autodiff()).sum_dim(1).mean().neg();
        (loss, similarity)
    };
    let (image_loss, image_to_text) = direction(image, image_m, &texts);
    let (text_loss, text_to_image) = direction(text, text_m, &images);
    ((image_loss + text_loss) * 0.5, [image_to_text, text_to_image])
}

/// Returns `alpha * softmax(momentum similarities) + (1 - alpha) * one-hot`, `[N, N + Q]`.
fn contrast_targets(plain: &Albef, momentum: &Tensor<2>, all: &Tensor<2>, alpha: f64) -> Tensor<2> {
    let [count, columns] = [momentum.dims()[0], all.dims()[1]];
    let mut own = vec![0.0_f32; count * columns];
    (0..count).for_each(|i| own[i * columns + i] = 1.0);
    let own = Tensor::from_data(TensorData::new(own, [count, columns]), &momentum.device());
    if alpha == 0.0 {
        return own;
    }
    let similarity = momentum.clone().matmul(all.clone()) / plain.temperature().unsqueeze();
    softmax(similarity, 1) * alpha + own * (1.0 - alpha)
}

/// Computes InfoNCE of features `[N, E]` at a temperature without queue and soft labels: the loss, and the similarities by
/// temperature of images to texts and of texts to images, `[N, N]` on the host.
pub(super) fn contrast_in_batch(
    [image, text]: [Tensor<2>; 2],
    temperature: &Tensor<1>,
) -> (Tensor<1>, [Vec<f32>; 2]) {
    let count = image.dims()[0];
    let own: Vec<usize> = (0..count).collect();
    let similarity = image.matmul(text.transpose()) / temperature.clone().unsqueeze();
    let other = similarity.clone().transpose();
    let loss = own_loss(similarity.clone(), &own) + own_loss(other.clone(), &own);
    (loss * 0.5, [in_batch(similarity, count), in_batch(other, count)])
}

/// Copies the similarities within the batch to the host, `[N, N]`.
fn in_batch(similarity: Tensor<2>, count: usize) -> Vec<f32> {
    let own = similarity.without_autodiff().narrow(1, 0, count);
    own.into_data_as::<f32>().try_into_vec().unwrap_or_default()
}

/// Computes ITM: cross-entropy of N true pairs and 2 N negatives.
pub(super) fn matching(
    encoders: &Encoders<'_>,
    image: &Tensor<3>,
    texts: &EncodedTexts,
    negatives: &Negatives,
) -> Tensor<1> {
    let (logits, labels) = texts.matches(encoders, image, negatives);
    own_loss(logits, &labels)
}

/// Computes MLM: cross-entropy of the masked words, of share alpha against the momentum copy's distributions.
fn words(
    model: &Albef,
    image: &Tensor<3>,
    masked: &MaskedTexts,
    target: Option<Tensor<2>>,
    alpha: f64,
) -> Tensor<1> {
    let encoders = model.encoders();
    let logits = word_logits(&encoders, model.config.special_ids.pad, image, masked);
    let labels: Vec<usize> = masked.labels.iter().map(|(.., id)| usize::try_from(*id).unwrap_or(0)).collect();
    match target {
        None => own_loss(logits, &labels),
        Some(target) => {
            let soft = (log_softmax(logits.clone(), 1) * target.autodiff()).sum_dim(1).mean().neg();
            own_loss(logits, &labels) * (1.0 - alpha) + soft * alpha
        }
    }
}

/// Returns the momentum copy's distributions over words at the masked tokens, `[M, V]`.
fn word_targets(plain: &Albef, image: &Tensor<3>, masked: &MaskedTexts) -> Tensor<2> {
    softmax(word_logits(&plain.momentum_encoders(), plain.config.special_ids.pad, image, masked), 1)
}

/// Computes the logits of the masked tokens, `[M, V]`.
pub(super) fn word_logits(
    encoders: &Encoders<'_>,
    pad: i64,
    image: &Tensor<3>,
    masked: &MaskedTexts,
) -> Tensor<2> {
    let texts = EncodedTexts::new(encoders, &masked.ids, pad, &image.device());
    texts.words(encoders, image, masked)
}

/// Computes the mean cross-entropy of logits `[R, C]` with labels `[R]`.
pub(super) fn own_loss(logits: Tensor<2>, labels: &[usize]) -> Tensor<1> {
    let labels = indices(labels, &logits.device()).reshape([labels.len(), 1]);
    log_softmax(logits, 1).gather(1, labels).mean().neg()
}
