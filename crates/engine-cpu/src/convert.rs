//! The plan's and the contract's types as the kernels call them.

use regraft_engine::plan::{ActivationFn, Average, PoolWindow};
use regraft_engine::{Error, Labels};
use regraft_graph::Conv2d;
use regraft_kernels::simd::Level;
use regraft_kernels::{Activation, Precision, conv, loss, pool};

/// The kernels' form of an activation.
pub fn activation(function: ActivationFn) -> Activation {
    match function {
        ActivationFn::Identity => Activation::Identity,
        ActivationFn::ReLU => Activation::ReLU,
        ActivationFn::ReLU6 => Activation::ReLU6,
        ActivationFn::Hardswish => Activation::Hardswish,
        ActivationFn::Hardsigmoid => Activation::Hardsigmoid,
        ActivationFn::SiLU => Activation::SiLU,
        ActivationFn::Sigmoid => Activation::Sigmoid,
        ActivationFn::GELU => Activation::GELU,
    }
}

/// The kernels' form of a pooling window.
pub fn window(window: PoolWindow) -> pool::Window {
    let PoolWindow { kernel_size, stride, padding } = window;
    pool::Window { kernel_size, stride, padding }
}

/// The kernels' form of an average.
pub fn average(average: Average) -> pool::Average {
    match average {
        Average::Adaptive => pool::Average::Adaptive,
        Average::Window(it) => pool::Average::Window(window(it)),
    }
}

/// The kernels' form of labels.
pub fn labels(labels: Labels) -> loss::Labels {
    match labels {
        Labels::Classes(classes) => loss::Labels::Classes(classes),
        Labels::Probabilities(shares) => loss::Labels::Probabilities(shares),
        Labels::Binary(answers) => loss::Labels::Binary(answers),
        Labels::Values(values) => loss::Labels::Values(values),
    }
}

/// The kernels' form of a precision, if this CPU has it.
pub fn precision(precision: regraft_engine::Precision) -> Result<Precision, Error> {
    let precision = match precision {
        regraft_engine::Precision::F32 => Precision::F32,
        regraft_engine::Precision::Bf16 => Precision::Bf16,
    };
    if precision.is_available() {
        return Ok(precision);
    }
    let level = Level::current().name();
    let reason = format!("it takes a CPU with AVX-512 BF16, used at level avx512, and the level in use is {level}");
    Err(Error::Precision { engine: "cpu", reason })
}

/// The shape of a convolution of a batch.
pub fn conv_shape(conv: &Conv2d, n: usize, input: [usize; 2], output: [usize; 2]) -> conv::Shape {
    conv::Shape {
        n,
        input,
        output,
        in_channels: conv.in_channels,
        out_channels: conv.out_channels,
        kernel: conv.kernel_size,
        stride: conv.stride,
        padding: conv.padding,
        dilation: conv.dilation,
        groups: conv.groups,
    }
}
