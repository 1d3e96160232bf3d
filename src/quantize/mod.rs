//! Quantization of model files: the matrices of a DiffusionGemma model in smaller types, everything
//! else as it is.
//!
//! A [`Mix`] decides which tensor gets which type, [`imatrix`] reads what weighs the errors,
//! `stream` converts the data of one tensor. They meet in a [`Plan`], which is made of an open, checked
//! model and says what its file would hold; [`Plan::write`] writes it.

pub mod imatrix;
mod metadata;
mod mix;
mod params;
mod plan;
mod stream;
mod write;

pub use imatrix::ImportanceMatrix;
pub(crate) use mix::MixShape;
pub use mix::{FileType, Mix, TypeOverride};
pub use params::QuantizeParams;
pub use plan::{Plan, PlannedTensor};
