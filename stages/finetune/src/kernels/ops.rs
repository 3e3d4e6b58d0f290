//! The operators as burn extensions: dispatched by device, with their derivatives.

use burn::backend::{
    Backend, Flex,
    autodiff::{
        Autodiff, NodeId,
        checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
        grads::Gradients,
        ops::{Backward, Ops, OpsKind, unary},
    },
    backend_extension,
    tensor::FloatTensor,
};

/// Forward and backward kernels of a backend; [`TrainingOps`] adds autodiff.
pub(crate) trait Kernels: Backend {
    /// Computes `x * Phi(x)`.
    fn gelu_forward(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Computes GELU's derivative times `grad`.
    fn gelu_back(x: FloatTensor<Self>, grad: FloatTensor<Self>) -> FloatTensor<Self>;
    /// Computes LayerNorm of `x` `[R, W]` with gain and shift `[W]`.
    fn norm_forward(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// Computes LayerNorm's derivatives for `x`, gain and shift, times `grad` `[R, W]`.
    fn norm_back(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        grad: FloatTensor<Self>,
        epsilon: f64,
    ) -> [FloatTensor<Self>; 3];
    /// Computes softmax over the last dimension of `scores * scale + hidden`, with `scores` `[N, H, T, S]`; `hidden` is 0 or minus
    /// infinity, `[N, S]`, or `[1, 1]` if no key is hidden; with `causal`, columns s > row t are hidden too.
    fn softmax_forward(
        scores: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self>;
    /// Computes softmax's derivative for the scores, from its output `shares`.
    fn softmax_back(shares: FloatTensor<Self>, grad: FloatTensor<Self>, scale: f64) -> FloatTensor<Self>;
}

/// The operators, with or without autodiff.
#[backend_extension(Flex, Cube: cfg(feature = "cuda"), Autodiff)]
pub(crate) trait TrainingOps: Backend {
    /// See [`Kernels::gelu_forward`].
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self>;
    /// See [`Kernels::norm_forward`].
    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self>;
    /// See [`Kernels::softmax_forward`].
    fn masked_softmax(
        scores: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self>;
}

/// Implements [`TrainingOps`] without autodiff, where the operators are the kernels themselves.
macro_rules! plain {
    ($backend:ty) => {
        impl TrainingOps for $backend {
            fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
                Self::gelu_forward(x)
            }
            fn fused_layer_norm(
                x: FloatTensor<Self>,
                gain: FloatTensor<Self>,
                shift: FloatTensor<Self>,
                epsilon: f64,
            ) -> FloatTensor<Self> {
                Self::norm_forward(x, gain, shift, epsilon)
            }
            fn masked_softmax(
                scores: FloatTensor<Self>,
                hidden: FloatTensor<Self>,
                scale: f64,
                causal: bool,
            ) -> FloatTensor<Self> {
                Self::softmax_forward(scores, hidden, scale, causal)
            }
        }
    };
}

plain!(Flex);
#[cfg(feature = "cuda")]
plain!(burn::backend::Cube);

#[derive(Debug)]
struct Gelu;

impl<B: Kernels> Backward<B, 1> for Gelu {
    type State = NodeId;

    fn backward(self, ops: Ops<NodeId, 1>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let x = checkpointer.retrieve_node_output(ops.state);
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::gelu_back(x, grad));
    }
}

#[derive(Debug)]
struct Norm;

impl<B: Kernels> Backward<B, 3> for Norm {
    type State = (NodeId, NodeId, f64);

    fn backward(self, ops: Ops<Self::State, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let (x, gain, epsilon) = ops.state;
        let x = checkpointer.retrieve_node_output(x);
        let gain = checkpointer.retrieve_node_output(gain);
        let grad = grads.consume::<B>(&ops.node);
        let found = B::norm_back(x, gain, grad, epsilon);
        for (parent, grad) in ops.parents.into_iter().zip(found) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, grad);
            }
        }
    }
}

#[derive(Debug)]
struct Softmax;

impl<B: Kernels> Backward<B, 1> for Softmax {
    type State = (FloatTensor<B>, f64);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (shares, scale) = ops.state;
        unary::<B, _>(ops.parents, ops.node, grads, |grad| B::softmax_back(shares, grad, scale));
    }
}

impl<B: Kernels, C: CheckpointStrategy> TrainingOps for Autodiff<B, C> {
    fn fused_gelu(x: FloatTensor<Self>) -> FloatTensor<Self> {
        match Gelu.prepare::<C>([x.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = prep.checkpoint(&x);
                prep.finish(state, B::gelu_forward(x.into_primitive()))
            }
            OpsKind::UnTracked(prep) => prep.finish(B::gelu_forward(x.into_primitive())),
        }
    }

    fn fused_layer_norm(
        x: FloatTensor<Self>,
        gain: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        epsilon: f64,
    ) -> FloatTensor<Self> {
        match Norm.prepare::<C>([x.node(), gain.node(), shift.node()]).compute_bound().stateful() {
            OpsKind::Tracked(mut prep) => {
                let state = (prep.checkpoint(&x), prep.checkpoint(&gain), epsilon);
                let out = B::norm_forward(
                    x.into_primitive(),
                    gain.into_primitive(),
                    shift.into_primitive(),
                    epsilon,
                );
                prep.finish(state, out)
            }
            OpsKind::UnTracked(prep) => prep.finish(B::norm_forward(
                x.into_primitive(),
                gain.into_primitive(),
                shift.into_primitive(),
                epsilon,
            )),
        }
    }

    fn masked_softmax(
        scores: FloatTensor<Self>,
        hidden: FloatTensor<Self>,
        scale: f64,
        causal: bool,
    ) -> FloatTensor<Self> {
        let hidden = hidden.into_primitive();
        match Softmax.prepare::<C>([scores.node()]).compute_bound().stateful() {
            OpsKind::Tracked(prep) => {
                let shares = B::softmax_forward(scores.into_primitive(), hidden, scale, causal);
                prep.finish((shares.clone(), scale), shares)
            }
            OpsKind::UnTracked(prep) => {
                prep.finish(B::softmax_forward(scores.into_primitive(), hidden, scale, causal))
            }
        }
    }
}
