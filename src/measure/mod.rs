//! Measurements: how well a model denoises, and how fast its device is.

pub mod cross_entropy;
mod experts;
mod mixture;
mod product;
mod rates;

pub use experts::{ExpertKernel, ExpertProduct, ExpertShape};
pub use mixture::{MixtureKernel, MixtureProduct, MixtureShape};
pub use rates::{DeviceRates, device_rates};
