//! From a prompt to token ids, and from token ids to text: all that is asked of a language model's tokenizer.

use std::sync::Arc;
use std::time::SystemTime;

use polylora_adapters::LoadedAdapter;
use polylora_generation::{SpecialTokens, TokenText};
use polylora_models::{ChatEnding, ChatInput, ChatTemplates, LanguageModel, TextToken};

use crate::{ChatPrompt, GenerateError, Prompt, TemplateValue};

/// The texts of a model's tokens.
pub(crate) struct ModelText(pub(crate) Arc<LanguageModel>);

impl TokenText for ModelText {
    fn text_of(&self, tokens: &[u32], special: SpecialTokens) -> String {
        text_of(&self.0, tokens, special)
    }
}

fn text_of(model: &LanguageModel, tokens: &[u32], special: SpecialTokens) -> String {
    // Ids that have no text are skipped by the library; it fails for nothing else.
    model.tokenizer().decode(tokens, special == SpecialTokens::Skip).unwrap_or_default()
}

/// Reads prompts for one model. Its work may take long: it is done on a thread that may block.
#[derive(Clone, Copy)]
pub(crate) struct PromptReader<'a> {
    /// The model.
    pub(crate) model: &'a LanguageModel,
    /// Characters that a text may have.
    pub(crate) max_chars: usize,
    /// What makes texts of conversations.
    pub(crate) templates: Option<&'a ChatTemplates>,
}

/// What makes texts of conversations through `adapter`: its own templates, or else the base model's.
pub(crate) fn templates_of<'a>(
    model: &'a LanguageModel,
    adapter: Option<&'a LoadedAdapter>,
) -> Option<&'a ChatTemplates> {
    let own = adapter.and_then(|adapter| adapter.chat.as_ref()?.get::<ChatTemplates>());
    own.or_else(|| model.chat())
}

impl PromptReader<'_> {
    /// The token ids of a prompt.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn ids(self, prompt: Prompt, add_special_tokens: bool) -> Result<Vec<u32>, GenerateError> {
        let text = match prompt {
            Prompt::Tokens(ids) => return self.checked(ids),
            Prompt::Text(text) => text,
            Prompt::Chat(chat) => self.render(chat)?,
        };
        self.check_length(&text)?;
        let tokenizer = self.model.tokenizer();
        let ids = match add_special_tokens {
            true => tokenizer.encode(&text, false),
            false => tokenizer.encode_as_is(&text),
        };
        ids.map_err(|reason| GenerateError::Tokenize { reason })
    }

    /// The tokens of a prompt with their texts.
    ///
    /// # Errors
    /// As [`PromptReader::ids`].
    pub(crate) fn tokens(
        self,
        prompt: Prompt,
        add_special_tokens: bool,
    ) -> Result<Vec<TextToken>, GenerateError> {
        let text = match prompt {
            Prompt::Tokens(ids) => {
                let token = |id: u32| TextToken { id, text: self.text_of(&[id]), span: None };
                return Ok(self.checked(ids)?.into_iter().map(token).collect());
            }
            Prompt::Text(text) => text,
            Prompt::Chat(chat) => self.render(chat)?,
        };
        self.check_length(&text)?;
        let tokens = self.model.tokenizer().tokens(&text, add_special_tokens);
        tokens.map_err(|reason| GenerateError::Tokenize { reason })
    }

    /// The text of token ids, special tokens included.
    pub(crate) fn text_of(self, ids: &[u32]) -> String {
        text_of(self.model, ids, SpecialTokens::Keep { spaces_between: true })
    }

    /// Refuses ids that the model has not.
    ///
    /// # Errors
    /// [`GenerateError::TokenOutOfVocabulary`].
    pub(crate) fn checked(self, ids: Vec<u32>) -> Result<Vec<u32>, GenerateError> {
        let vocab_size = self.model.vocab_size();
        match ids.iter().find(|id| **id as usize >= vocab_size) {
            Some(&token) => Err(GenerateError::TokenOutOfVocabulary { token, vocab_size }),
            None => Ok(ids),
        }
    }

    fn check_length(self, text: &str) -> Result<(), GenerateError> {
        // A character has a byte at least: most texts need no counting.
        if text.len() <= self.max_chars {
            return Ok(());
        }
        let found = text.chars().count();
        match found > self.max_chars {
            true => Err(GenerateError::TooManyCharacters { found, max: self.max_chars }),
            false => Ok(()),
        }
    }

    fn render(self, chat: ChatPrompt) -> Result<String, GenerateError> {
        let templates = self.templates.ok_or(GenerateError::NoChatTemplate)?;
        let input = ChatInput {
            messages: TemplateValue::from(chat.messages),
            tools: chat.tools,
            documents: chat.documents,
            ending: match (chat.continue_final_message, chat.add_generation_prompt) {
                (true, _) => ChatEnding::FinalMessage,
                (false, true) => ChatEnding::GenerationPrompt,
                (false, false) => ChatEnding::Nothing,
            },
            variables: chat.kwargs,
            template: None,
            now: SystemTime::now(),
        };
        templates.render(&input).map_err(|error| GenerateError::Template { reason: error.to_string() })
    }
}
