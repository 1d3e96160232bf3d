//! Measurements: how well a model denoises, and how fast its device is.

pub mod cross_entropy;
mod rates;

pub use rates::{DeviceRates, device_rates};
