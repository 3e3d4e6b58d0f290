//! A CoCa's forward pass in plain Rust and f64, written from the definitions and not from the exporter: no folding, no
//! padding of heads, no cache. Slow, for small models.

use std::{collections::HashMap, path::Path};

use recaption_onnx::checkpoint::{Activation, Checkpoint, ModelConfig, MultimodalInput, PoolerKind};

/// Tokens, `[count][width]`.
pub(crate) type Rows = Vec<Vec<f64>>;

/// torch's default, which open_clip uses throughout.
const EPSILON: f64 = 1e-5;

/// The model.
pub(crate) struct Reference {
    pub config: ModelConfig,
    tensors: HashMap<String, Vec<f64>>,
}

/// What the model makes of an image.
pub(crate) struct Image {
    /// L2-normalised, `[E]`.
    pub features: Vec<f64>,
    /// What the decoder attends to, `[Q][E]`.
    pub tokens: Rows,
}

/// `erf` by its series, and by its continued fraction where that converges faster; good to 1e-12.
fn erf(x: f64) -> f64 {
    let (a, square) = (x.abs(), x * x);
    if a > 6.0 {
        return x.signum();
    }
    if a < 2.5 {
        let (mut term, mut sum) = (a, a);
        for n in 1..80 {
            term *= -square / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return x.signum() * sum * std::f64::consts::FRAC_2_SQRT_PI;
    }
    let fraction = (1..80).rev().fold(a, |f, k| a + f64::from(k) / 2.0 / f);
    x.signum() * (1.0 - (-square).exp() / fraction / std::f64::consts::PI.sqrt())
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `rows @ weight.T + bias`; the weight is `[bias.len(), in]`.
fn linear(rows: &Rows, weight: &[f64], bias: &[f64]) -> Rows {
    let row = |x: &Vec<f64>| weight.chunks_exact(x.len()).zip(bias).map(|(w, b)| dot(w, x) + b).collect();
    rows.iter().map(row).collect()
}

/// `x @ weight`; the weight is `[x.len(), out]`.
fn project(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let out = weight.len() / x.len();
    (0..out).map(|o| x.iter().enumerate().map(|(i, x)| x * weight[i * out + o]).sum()).collect()
}

fn normalised(x: Vec<f64>) -> Vec<f64> {
    let norm = dot(&x, &x).sqrt();
    x.into_iter().map(|v| v / norm).collect()
}

/// Softmax attention of several heads; `visible(query, key)` says what is seen.
fn attention(q: &Rows, k: &Rows, v: &Rows, heads: usize, visible: &dyn Fn(usize, usize) -> bool) -> Rows {
    let dim = q[0].len() / heads;
    let head = |row: &Vec<f64>, h: usize| row[h * dim..(h + 1) * dim].to_vec();
    let one = |i: usize, h: usize| {
        let query = head(&q[i], h);
        let score = |j: usize| dot(&query, &head(&k[j], h)) / (dim as f64).sqrt();
        let weights: Vec<f64> =
            (0..k.len()).map(|j| if visible(i, j) { score(j).exp() } else { 0.0 }).collect();
        let total: f64 = weights.iter().sum();
        (0..dim).map(|d| (0..k.len()).map(|j| weights[j] * v[j][h * dim + d]).sum::<f64>() / total).collect()
    };
    (0..q.len()).map(|i| (0..heads).flat_map(|h: usize| -> Vec<f64> { one(i, h) }).collect()).collect()
}

impl Reference {
    pub(crate) fn open(dir: &Path) -> Self {
        let checkpoint = Checkpoint::open(dir).expect("a checkpoint");
        let read = |name: &str| {
            let shape = checkpoint.tensors.shape(name).expect("the tensor");
            let values = checkpoint.tensors.get(name, shape).expect("readable");
            (name.to_owned(), values.into_iter().map(f64::from).collect())
        };
        Self { config: checkpoint.config, tensors: checkpoint.tensors.names().map(read).collect() }
    }

    fn t(&self, name: &str) -> &[f64] {
        self.tensors.get(name).unwrap_or_else(|| panic!("no tensor {name}"))
    }

    /// Row `i` of a matrix `[_, width]`.
    fn row(&self, name: &str, i: usize, width: usize) -> &[f64] {
        &self.t(name)[i * width..(i + 1) * width]
    }

    fn layer_norm(&self, prefix: &str, rows: &Rows) -> Rows {
        let (gain, shift) = (self.t(&format!("{prefix}.weight")), self.t(&format!("{prefix}.bias")));
        let row = |x: &Vec<f64>| {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
            let scale = 1.0 / (variance + EPSILON).sqrt();
            x.iter().zip(gain).zip(shift).map(|((v, g), s)| (v - mean) * scale * g + s).collect()
        };
        rows.iter().map(row).collect()
    }

    fn dense(&self, prefix: &str, rows: &Rows) -> Rows {
        linear(rows, self.t(&format!("{prefix}.weight")), self.t(&format!("{prefix}.bias")))
    }

    /// `nn.MultiheadAttention` over `query [T][E]` and `context [S][C]`.
    fn attend(
        &self,
        prefix: &str,
        query: &Rows,
        context: &Rows,
        heads: usize,
        visible: &dyn Fn(usize, usize) -> bool,
    ) -> Rows {
        let width = query[0].len();
        let bias = self.t(&format!("{prefix}.in_proj_bias"));
        let part = |i: usize, letter: &str, rows: &Rows| {
            let bias = &bias[i * width..(i + 1) * width];
            match self.tensors.get(&format!("{prefix}.in_proj_weight")) {
                Some(packed) => linear(rows, &packed[i * width * width..(i + 1) * width * width], bias),
                None => linear(rows, self.t(&format!("{prefix}.{letter}_proj_weight")), bias),
            }
        };
        let (q, k, v) = (part(0, "q", query), part(1, "k", context), part(2, "v", context));
        self.dense(&format!("{prefix}.out_proj"), &attention(&q, &k, &v, heads, visible))
    }

    fn activate(&self, x: f64) -> f64 {
        match self.config.activation {
            Activation::Gelu => 0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        }
    }

    /// `x + gamma * change`, where there is a gamma.
    fn residual(&self, gamma: &str, x: &Rows, change: Rows) -> Rows {
        let scaled = |row: Vec<f64>| match self.tensors.get(&format!("{gamma}.gamma")) {
            Some(gamma) => row.iter().zip(gamma).map(|(v, g)| v * g).collect(),
            None => row,
        };
        x.iter().zip(change).map(|(x, change)| add(x, &scaled(change))).collect()
    }

    /// A residual block; attends to `image` if there is one, else to itself.
    fn block(
        &self,
        prefix: &str,
        x: &Rows,
        image: Option<&Rows>,
        heads: usize,
        visible: &dyn Fn(usize, usize) -> bool,
    ) -> Rows {
        let query = self.layer_norm(&format!("{prefix}.ln_1"), x);
        let context = image.map(|tokens| self.layer_norm(&format!("{prefix}.ln_1_kv"), tokens));
        let seen = self.attend(
            &format!("{prefix}.attn"),
            &query,
            context.as_ref().unwrap_or(&query),
            heads,
            visible,
        );
        let x = self.residual(&format!("{prefix}.ls_1"), x, seen);
        let mut hidden =
            self.dense(&format!("{prefix}.mlp.c_fc"), &self.layer_norm(&format!("{prefix}.ln_2"), &x));
        hidden.iter_mut().flatten().for_each(|v| *v = self.activate(*v));
        let change = self.dense(&format!("{prefix}.mlp.c_proj"), &hidden);
        self.residual(&format!("{prefix}.ls_2"), &x, change)
    }

    /// The image tower's tokens, class token first, of u8 `[S, S, 3]`.
    fn tower(&self, pixels: &[u8]) -> Rows {
        let (v, n) = (&self.config.vision, &self.config.normalisation);
        let (patch, side, width) = (v.patch_size, v.image_size, v.width);
        let filters = self.t("visual.conv1.weight");
        let value = |y: usize, x: usize, c: usize| {
            (f64::from(pixels[(y * side + x) * 3 + c]) / 255.0 - n.mean[c]) / n.std[c]
        };
        let mut tokens = vec![self.t("visual.class_embedding").to_vec()];
        for (top, left) in (0..v.grid()).flat_map(|y| (0..v.grid()).map(move |x| (y * patch, x * patch))) {
            // The convolution's order: channel, row, column.
            let window: Vec<f64> = (0..3 * patch * patch)
                .map(|i| value(top + i / patch % patch, left + i % patch, i / (patch * patch)))
                .collect();
            tokens.push(filters.chunks_exact(window.len()).map(|f| dot(f, &window)).collect());
        }
        let place = |i: usize| self.row("visual.positional_embedding", i, width);
        let mut x: Rows = tokens.iter().enumerate().map(|(i, t)| add(t, place(i))).collect();
        if v.ln_pre {
            x = self.layer_norm("visual.ln_pre", &x);
        }
        for layer in 0..v.layers {
            let prefix = format!("visual.transformer.resblocks.{layer}");
            x = self.block(&prefix, &x, None, v.heads, &|_, _| true);
        }
        x
    }

    fn pool(&self, prefix: &str, context: &Rows, heads: usize) -> Rows {
        let query = self.t(&format!("{prefix}.query")).chunks_exact(self.config.embed_dim);
        let query = self.layer_norm(&format!("{prefix}.ln_q"), &query.map(<[f64]>::to_vec).collect());
        let context = self.layer_norm(&format!("{prefix}.ln_k"), context);
        self.attend(&format!("{prefix}.attn"), &query, &context, heads, &|_, _| true)
    }

    /// Of u8 `[S, S, 3]`.
    pub(crate) fn image(&self, pixels: &[u8]) -> Image {
        const OWN: &str = "visual.attn_pool_contrastive";
        let x = self.tower(pixels);
        let post = |rows: &Rows| self.layer_norm("visual.ln_post", rows);
        let (pooled, tokens) = match self.config.vision.pooler {
            None => {
                let x = post(&x);
                (x[0].clone(), x[1..].to_vec())
            }
            Some(p) => {
                let raw = self.pool("visual.attn_pool", &x, p.heads);
                let queried = post(&raw);
                let own = |context| {
                    let pooled = self.pool(OWN, context, p.heads);
                    self.layer_norm("visual.ln_post_contrastive", &pooled)[0].clone()
                };
                match p.kind {
                    PoolerKind::Released => (queried[0].clone(), queried[1..].to_vec()),
                    PoolerKind::Parallel => (own(&x), queried),
                    PoolerKind::Cascade => (own(&raw), queried),
                }
            }
        };
        Image { features: normalised(project(&pooled, self.t("visual.proj"))), tokens }
    }

    fn embeddings(&self, ids: &[i64]) -> Rows {
        let width = self.config.text.width;
        let word = |id: i64| self.row("text.token_embedding.weight", id as usize, width);
        let place = |i: usize| self.row("text.positional_embedding", i, width);
        ids.iter().enumerate().map(|(i, id)| add(word(*id), place(i))).collect()
    }

    fn text_blocks(&self, mut x: Rows, visible: &dyn Fn(usize, usize) -> bool) -> Rows {
        for layer in 0..self.config.text.layers {
            let prefix = format!("text.transformer.resblocks.{layer}");
            x = self.block(&prefix, &x, None, self.config.text.heads, visible);
        }
        x
    }

    /// `[E]`, L2-normalised, of a text without padding. As open_clip does it: padded to the whole context, the class token
    /// behind, and a padding mask that is shifted by one.
    pub(crate) fn text(&self, ids: &[i64]) -> Vec<f64> {
        let (context, width) = (self.config.text.context_length, self.config.text.width);
        let mut padded = ids.to_vec();
        padded.resize(context, 0);
        let mut x = self.embeddings(&padded);
        x.push(add(self.t("text.cls_emb"), self.row("text.positional_embedding", context, width)));
        let visible = |query: usize, key: usize| key <= query && (key == 0 || padded[key - 1] != 0);
        let class = self.text_blocks(x, &visible)[context].clone();
        let class = &self.layer_norm("text.ln_final", &vec![class])[0];
        normalised(project(class, self.t("text.text_projection")))
    }

    /// Logits `[T][V]` after every one of `ids`, which hold no padding.
    pub(crate) fn logits(&self, image: &Image, ids: &[i64]) -> Rows {
        let d = self.config.decoder.expect("a decoder");
        let causal = |query: usize, key: usize| key <= query;
        let mut x = self.embeddings(ids);
        if d.input == MultimodalInput::Unimodal {
            x = self.text_blocks(x, &causal);
        }
        for layer in 0..d.layers {
            x = self.block(&format!("text_decoder.resblocks.{layer}"), &x, None, d.heads, &causal);
            let prefix = format!("text_decoder.cross_attn.{layer}");
            x = self.block(&prefix, &x, Some(&image.tokens), d.heads, &|_, _| true);
        }
        let projection = self.t("text_decoder.text_projection");
        self.layer_norm("text_decoder.ln_final", &x).iter().map(|x| project(x, projection)).collect()
    }
}
