//! The demo model and a session of it on one thread.

use std::ops::ControlFlow;
use std::path::Path;

use llama_diffusion::chat::{Message, Role};
use llama_diffusion::{
    DiffusionParams, SamplerOverrides, Session, SessionParams, TextModel, Token,
};

pub struct Demo {
    pub text: TextModel,
    pub session: Session,
    /// The model's own, otherwise the default.
    pub params: DiffusionParams,
}

impl Demo {
    pub fn new() -> Self {
        let path = Path::new(llama_diffusion_demo_model::PATH);
        let go_on = &mut |_| ControlFlow::Continue(());
        let text = TextModel::load(path, &Default::default(), go_on).unwrap();
        let settings = SessionParams {
            threads: Some(1),
            ..SessionParams::default()
        };
        let session = text.session(&settings).unwrap();
        let overrides = text.model().overrides();
        let params = DiffusionParams::resolve(&SamplerOverrides::default(), &overrides).unwrap();
        Self {
            text,
            session,
            params,
        }
    }

    /// The tokens of a question.
    pub fn prompt(&self, question: &str) -> Vec<Token> {
        let template = self.text.chat_template().unwrap();
        let messages = [Message::new(Role::User, question)];
        let prompt = self
            .text
            .prompt(template.as_ref(), &messages, Default::default());
        prompt.unwrap()
    }
}
