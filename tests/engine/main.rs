//! The engine from outside.

mod bad_files;
mod batch;
mod canvas_length;
mod canvas_quality;
mod chat_prompt;
mod constraints;
mod demo;
mod draws;
mod edit;
mod forms;
mod golden;
mod infill;
mod loading;
mod masked;
mod promises;
mod quality;
mod quantize;
mod rings;
mod sessions;
mod templates;
mod thinking;
mod upstream;
mod verify;
mod vocab;
