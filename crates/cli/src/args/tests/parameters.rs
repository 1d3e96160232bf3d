//! The parameters of the library and the flags of this program.

use llama_diffusion::Parameter;
use llama_diffusion_flags::names::{defines, flags};

use super::super::definition;

#[test]
fn every_flag_that_messages_name_is_defined() {
    let command = definition();
    for parameter in Parameter::ALL {
        if let Some(flags) = flags(*parameter) {
            assert!(defines(&command, flags), "{parameter}: {flags}");
        }
    }
    assert!(!defines(&command, "-c, --no-such-flag"));
}
