//! Quantization of model files: converts the matrices of a DiffusionGemma model to smaller types,
//! and leaves everything else as it is.
//!
//! A [`Mix`] decides which tensor gets which type, [`imatrix`] reads the weights of the errors,
//! `stream` converts the data of one tensor. They meet in a [`Plan`], which is made from an open,
//! checked model and describes the new file; [`Plan::write`] writes it.

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
