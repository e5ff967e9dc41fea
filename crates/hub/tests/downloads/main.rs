//! Downloads from servers that behave and from servers that do not.

mod common;
mod failures;
mod good;
mod resume;
mod tls;
