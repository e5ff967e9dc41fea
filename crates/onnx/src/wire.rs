//! A look at a file before it is decoded: how many messages it holds.
//!
//! An empty message takes two bytes in a file and some hundred in memory, so a file made of nothing else would decode
//! to many times its size. Walking over the fields costs no memory at all.

use prost::bytes::Buf;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::error::Problem;

/// The most messages of a file: the largest convolutional networks have some ten thousand.
const MAX_MESSAGES: usize = 200_000;

/// What a message of `messages.rs` may hold, as far as that is messages.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    /// Everything that names and types inputs and outputs.
    Description,
    Leaf,
}

impl Kind {
    fn field(self, tag: u32) -> Option<Self> {
        Some(match (self, tag) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 8) => Kind::Leaf,
            (Kind::Graph, 1) => Kind::Node,
            (Kind::Graph, 5) => Kind::Tensor,
            (Kind::Graph, 11 | 12) => Kind::Description,
            // The names of inputs and outputs, which may be empty just as well.
            (Kind::Node, 1 | 2) => Kind::Leaf,
            (Kind::Node, 5) => Kind::Attribute,
            (Kind::Attribute, 5) => Kind::Tensor,
            (Kind::Tensor, 13) => Kind::Leaf,
            // Type, tensor type, shape and dimension nest; names under the same numbers are no messages, but are
            // told from them by the level.
            _ => return None,
        })
    }
}

/// Checks that the file's fields lie within it and that it does not hold too many messages.
///
/// # Errors
/// [`Problem::Malformed`], [`Problem::Refused`].
pub(crate) fn check(bytes: &[u8]) -> Result<(), Problem> {
    let mut messages = 0;
    walk(bytes, Kind::Model, &mut messages)
}

fn walk(mut bytes: &[u8], kind: Kind, messages: &mut usize) -> Result<(), Problem> {
    let damaged = |e: prost::DecodeError| Problem::Malformed(e.to_string());
    while bytes.has_remaining() {
        let (tag, wire) = decode_key(&mut bytes).map_err(damaged)?;
        let length = match wire {
            WireType::Varint => {
                decode_varint(&mut bytes).map_err(damaged)?;
                0
            }
            WireType::ThirtyTwoBit => 4,
            WireType::SixtyFourBit => 8,
            WireType::LengthDelimited => decode_varint(&mut bytes).map_err(damaged)?,
            WireType::StartGroup | WireType::EndGroup => {
                return Err(Problem::Malformed("it has a group, which ONNX files don't".into()));
            }
        };
        let Some((field, rest)) = usize::try_from(length).ok().and_then(|length| bytes.split_at_checked(length)) else {
            return Err(Problem::Malformed(format!(
                "a field of {length} bytes does not fit into the {} that are left; was it downloaded whole?",
                bytes.len()
            )));
        };
        bytes = rest;
        if let (WireType::LengthDelimited, Some(kind)) = (wire, kind.field(tag)) {
            // A shape of n dimensions takes at least 2n bytes, and few inputs and outputs are to be expected.
            *messages += 1 + if matches!(kind, Kind::Description) { field.len() / 2 } else { 0 };
            if *messages > MAX_MESSAGES {
                return Err(Problem::Refused(format!(
                    "it has more than {MAX_MESSAGES} nodes, names, attributes and tensors"
                )));
            }
            match kind {
                Kind::Description | Kind::Leaf => {}
                kind => walk(field, kind, messages)?,
            }
        }
    }
    Ok(())
}
