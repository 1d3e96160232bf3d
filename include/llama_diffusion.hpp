/*
 * C++11 on top of llama_diffusion.h: objects that free themselves, exceptions, std::string and
 * std::vector. Header only. The comments of llama_diffusion.h apply here, too.
 */
#ifndef LLAMA_DIFFUSION_HPP
#define LLAMA_DIFFUSION_HPP

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "llama_diffusion.h"

namespace llama_diffusion {

/* A failure, with the message of the library. */
class Error : public std::runtime_error {
public:
    Error(diffusion_status status, const char *message)
        : std::runtime_error(message), status_(status) {}

    diffusion_status status() const noexcept { return status_; }

private:
    diffusion_status status_;
};

namespace detail {

struct Free {
    void operator()(diffusion_error *error) const noexcept { diffusion_error_free(error); }
    void operator()(diffusion_model *model) const noexcept { diffusion_model_free(model); }
    void operator()(diffusion_context *context) const noexcept { diffusion_context_free(context); }
    void operator()(char *string) const noexcept { diffusion_string_free(string); }
};

template <class T> using Handle = std::unique_ptr<T, Free>;

/* Receives the error object of one call and throws it if the call failed. */
class Check {
public:
    diffusion_error **out() noexcept { return &error_; }

    void operator()(diffusion_status status) const {
        if (status == DIFFUSION_STATUS_OK)
            return;
        const Handle<diffusion_error> owned(error_);
        throw Error(status, diffusion_error_message(owned.get()));
    }

private:
    diffusion_error *error_ = nullptr;
};

/* Calls `call(data, capacity, count, error)`, and again with the required capacity if needed. */
template <class Container, class Call> Container fill(Call call) {
    Container values(64, typename Container::value_type());
    for (;;) {
        std::size_t count = 0;
        Check check;
        const diffusion_status status = call(&values[0], values.size(), &count, check.out());
        if (status == DIFFUSION_STATUS_BUFFER_TOO_SMALL && count > values.size()) {
            const Handle<diffusion_error> ignored(*check.out());
            values.resize(count);
            continue;
        }
        check(status);
        values.resize(count);
        return values;
    }
}

/* As `fill`, without the terminating zero byte. */
template <class Call> std::string fill_text(Call call) {
    std::string text = fill<std::string>(call);
    text.pop_back();
    return text;
}

} // namespace detail

using Tokens = std::vector<std::int32_t>;

/* The text of an answer, and what the model thought before. */
struct Reply {
    std::string text;
    std::string thoughts;
};

/* How a model is loaded: the fields of diffusion_model_params. */
struct ModelParams : diffusion_model_params {
    ModelParams() {
        detail::Check check;
        check(diffusion_model_params_init(this, sizeof(diffusion_model_params), check.out()));
    }
};

/* How a context runs: the fields of diffusion_context_params. */
struct ContextParams : diffusion_context_params {
    ContextParams() {
        detail::Check check;
        check(diffusion_context_params_init(this, sizeof(diffusion_context_params), check.out()));
    }
};

/* A model. Copies share it; any thread may use it at any time. */
class Model {
public:
    explicit Model(const std::string &path, const diffusion_model_params &params = ModelParams()) {
        detail::Check check;
        diffusion_model *model = nullptr;
        check(diffusion_model_load(path.c_str(), &params, &model, check.out()));
        handle_.reset(model);
    }

    Model(const Model &other) noexcept : handle_(diffusion_model_retain(other.get())) {}
    Model(Model &&) noexcept = default;
    Model &operator=(Model other) noexcept {
        handle_.swap(other.handle_);
        return *this;
    }
    ~Model() = default;

    diffusion_model *get() const noexcept { return handle_.get(); }

    /* Empty after a move. */
    std::string architecture() const {
        const char *name = diffusion_model_architecture(get());
        return name ? name : "";
    }
    std::size_t vocab_size() const noexcept { return diffusion_model_vocab_size(get()); }
    std::size_t canvas_length() const noexcept { return diffusion_model_canvas_length(get()); }
    std::size_t context_length() const noexcept { return diffusion_model_context_length(get()); }
    bool is_end_token(std::int32_t token) const noexcept {
        return diffusion_model_is_end_token(get(), token);
    }

    std::string metadata(const std::string &key) const {
        return detail::fill_text(
            [&](char *buffer, std::size_t capacity, std::size_t *size, diffusion_error **error) {
                return diffusion_model_metadata(get(), key.c_str(), buffer, capacity, size, error);
            });
    }

    Tokens tokenize(const std::string &text, bool add_special = false,
                    bool parse_special = false) const {
        return detail::fill<Tokens>([&](std::int32_t *tokens, std::size_t capacity,
                                        std::size_t *count, diffusion_error **error) {
            return diffusion_tokenize(get(), text.data(), text.size(), add_special, parse_special,
                                      tokens, capacity, count, error);
        });
    }

    std::string detokenize(const Tokens &tokens, bool special = false) const {
        return detail::fill_text(
            [&](char *buffer, std::size_t capacity, std::size_t *size, diffusion_error **error) {
                return diffusion_detokenize(get(), tokens.data(), tokens.size(), special, buffer,
                                            capacity, size, error);
            });
    }

    /* The text of an answer to `prompt`, separate from the model's thoughts. */
    Reply split_answer(const Tokens &prompt, const Tokens &answer) const {
        detail::Check check;
        char *text = nullptr, *thoughts = nullptr;
        const diffusion_status status =
            diffusion_split_answer(get(), prompt.data(), prompt.size(), answer.data(),
                                   answer.size(), &text, &thoughts, check.out());
        const detail::Handle<char> own_text(text), own_thoughts(thoughts);
        check(status);
        return {text, thoughts};
    }

    /* `messages` and `variables` are JSON. */
    Tokens apply_chat_template(const std::string &messages,
                               const std::string &variables = "{}") const {
        return detail::fill<Tokens>([&](std::int32_t *tokens, std::size_t capacity,
                                        std::size_t *count, diffusion_error **error) {
            return diffusion_apply_chat_template(get(), messages.c_str(), variables.c_str(), tokens,
                                                 capacity, count, error);
        });
    }

private:
    detail::Handle<diffusion_model> handle_;
};

/*
 * What is known about a canvas before its first step. Positions are appended one after the other;
 * those after the last one are free.
 */
class Template {
public:
    /* Positions that hold any token. */
    Template &free(std::size_t count = 1) {
        for (; count > 0; count--)
            push(-1, -1);
        return *this;
    }

    /* Positions that hold these tokens. */
    Template &fixed(const Tokens &tokens) {
        for (const std::int32_t token : tokens)
            push(token, -1);
        return *this;
    }

    /* A position that holds one of these tokens. */
    Template &within(const Tokens &tokens) {
        push(-1, static_cast<std::int32_t>(sets_.size()));
        sets_.push_back(tokens);
        return *this;
    }

    /* What the positions begin with instead of noise; below 0 is noise. */
    Template &begin_with(const Tokens &tokens) {
        initial_ = tokens;
        return *this;
    }

    /* The step of the schedule at which the canvas begins. */
    Template &begin_at(std::uint32_t step) {
        first_step_ = step;
        return *this;
    }

private:
    friend struct Params;

    void push(std::int32_t token, std::int32_t set) {
        fixed_.push_back(token);
        set_of_.push_back(set);
    }

    /* Valid as long as this object and `sets`, which it fills. */
    diffusion_template view(std::vector<diffusion_token_set> &sets) {
        const std::size_t length = fixed_.size() > initial_.size() ? fixed_.size() : initial_.size();
        fixed_.resize(length, -1);
        set_of_.resize(length, -1);
        initial_.resize(length, -1);
        sets.clear();
        for (const Tokens &set : sets_)
            sets.push_back(diffusion_token_set{set.data(), set.size()});
        diffusion_template view = diffusion_template();
        view.struct_size = sizeof view;
        view.length = length;
        view.fixed = fixed_.data();
        view.set_of = set_of_.data();
        view.initial = initial_.data();
        view.sets = sets.data();
        view.set_count = sets.size();
        view.first_step = first_step_;
        return view;
    }

    Tokens fixed_, set_of_, initial_;
    std::vector<Tokens> sets_;
    std::uint32_t first_step_ = 0;
};

/*
 * How an answer is generated: the fields of diffusion_params, and callbacks that may throw; the
 * exception leaves Context::generate. `on_step`, `on_canvas` and `user_data` of the base are in use,
 * and those that the members below replace: `json_schema`, `regex`, `templates`, `template_count`.
 */
struct Params : diffusion_params {
    explicit Params(const Model &model) {
        detail::Check check;
        check(diffusion_params_init(model.get(), this, sizeof(diffusion_params), check.out()));
    }

    /* Empty is no constraint. */
    std::string schema;
    std::string expression;
    /* What is known about the canvases, from the first one on. */
    std::vector<Template> known;

    /* Return false to cancel. */
    std::function<bool(const diffusion_draft &)> step;
    std::function<bool(const diffusion_canvas &)> canvas;

private:
    friend class Context;

    /* What the pointers of a diffusion_params lead to. */
    struct Views {
        std::vector<Template> known;
        std::vector<std::vector<diffusion_token_set>> sets;
        std::vector<diffusion_template> templates;
        std::vector<const diffusion_template *> pointers;
    };

    /* Lets `params` point to `views`, which this fills, and to the strings of this object. */
    void lend(diffusion_params &params, Views &views) const {
        params.json_schema = schema.empty() ? nullptr : schema.c_str();
        params.regex = expression.empty() ? nullptr : expression.c_str();
        views.known = known;
        views.sets.resize(known.size());
        for (std::size_t i = 0; i < known.size(); i++)
            views.templates.push_back(views.known[i].view(views.sets[i]));
        for (const diffusion_template &view : views.templates)
            views.pointers.push_back(&view);
        params.templates = views.pointers.data();
        params.template_count = views.pointers.size();
    }
};

struct Answer {
    Tokens tokens;
    diffusion_result result;
};

struct TextAnswer {
    std::string text;
    diffusion_result result;
    std::string thoughts;
};

/* A conversation. Move only; one thread at a time, except for cancel(). */
class Context {
public:
    explicit Context(const Model &model, const diffusion_context_params &params = ContextParams()) {
        detail::Check check;
        diffusion_context *context = nullptr;
        check(diffusion_context_new(model.get(), &params, &context, check.out()));
        handle_.reset(context);
    }

    diffusion_context *get() const noexcept { return handle_.get(); }

    void reset() {
        detail::Check check;
        check(diffusion_context_reset(get(), check.out()));
    }

    std::size_t cached() const {
        detail::Check check;
        std::size_t count = 0;
        check(diffusion_context_cached(get(), &count, check.out()));
        return count;
    }

    void cancel() const noexcept { diffusion_context_cancel(get()); }

    Answer generate(const Tokens &prompt, const Params &params) {
        Bridge bridge(params);
        Answer answer;
        answer.result.struct_size = sizeof answer.result;
        const auto call = [&](std::int32_t *tokens, std::size_t capacity, std::size_t *count,
                              diffusion_error **error) {
            return bridge.rethrow(diffusion_generate(get(), prompt.data(), prompt.size(),
                                                     &bridge.params, tokens, capacity, count,
                                                     &answer.result, error),
                                  error);
        };
        answer.tokens = detail::fill<Tokens>(call);
        return answer;
    }

    /* Scores a text as an answer to `prompt`, and repairs it: see diffusion_check. */
    Answer check(const Tokens &prompt, const Tokens &text, const Params &params) {
        Bridge bridge(params);
        Answer answer;
        answer.result.struct_size = sizeof answer.result;
        const auto call = [&](std::int32_t *tokens, std::size_t capacity, std::size_t *count,
                              diffusion_error **error) {
            return bridge.rethrow(diffusion_check(get(), prompt.data(), prompt.size(), text.data(),
                                                  text.size(), &bridge.params, tokens, capacity,
                                                  count, &answer.result, error),
                                  error);
        };
        answer.tokens = detail::fill<Tokens>(call);
        return answer;
    }

    /* Edits a text as `instruction` asks for: see diffusion_edit_text. */
    std::string edit_text(const std::string &text, const std::string &instruction, float strength,
                          const std::vector<diffusion_lines> &lines, const Params &params) {
        Bridge bridge(params);
        detail::Check check;
        char *edited = nullptr;
        const diffusion_status status = diffusion_edit_text(
            get(), text.data(), text.size(), instruction.data(), instruction.size(), strength,
            lines.data(), lines.size(), &bridge.params, &edited, nullptr, check.out());
        const detail::Handle<char> own(edited);
        check(bridge.rethrow(status, check.out()));
        return edited;
    }

    /* Fills a form; `form` and the result are JSON: see diffusion_fill. */
    std::string fill(const Tokens &prompt, const std::string &form,
                     diffusion_thoughts thoughts = DIFFUSION_THOUGHTS_OFF) {
        detail::Check check;
        char *answer = nullptr;
        const diffusion_status status =
            diffusion_fill(get(), prompt.data(), prompt.size(), form.data(), form.size(), thoughts,
                           &answer, check.out());
        const detail::Handle<char> own(answer);
        check(status);
        return answer;
    }

    /* Fills a gap in a text; `request` and the result are JSON: see diffusion_infill. */
    std::string infill(const std::string &request, const Params &params) {
        Bridge bridge(params);
        detail::Check check;
        char *answer = nullptr;
        const diffusion_status status = diffusion_infill(
            get(), request.data(), request.size(), &bridge.params, &answer, check.out());
        const detail::Handle<char> own(answer);
        check(bridge.rethrow(status, check.out()));
        return answer;
    }

    TextAnswer generate_text(const std::string &prompt, const Params &params) {
        Bridge bridge(params);
        TextAnswer answer;
        answer.result.struct_size = sizeof answer.result;
        detail::Check check;
        char *text = nullptr, *thoughts = nullptr;
        const diffusion_status status =
            diffusion_generate_reply(get(), prompt.data(), prompt.size(), &bridge.params, &text,
                                     &thoughts, &answer.result, check.out());
        const detail::Handle<char> own_text(text), own_thoughts(thoughts);
        check(bridge.rethrow(status, check.out()));
        answer.text = text;
        answer.thoughts = thoughts;
        return answer;
    }

private:
    /* Keeps exceptions of callbacks out of the library: they cancel, and are thrown after it returns. */
    struct Bridge {
        explicit Bridge(const Params &own) : params(own), callbacks(own) {
            own.lend(params, views);
            params.on_step = own.step ? on_step : nullptr;
            params.on_canvas = own.canvas ? on_canvas : nullptr;
            params.user_data = this;
        }

        diffusion_status rethrow(diffusion_status status, diffusion_error **error) {
            if (thrown) {
                const detail::Handle<diffusion_error> ignored(*error);
                std::rethrow_exception(thrown);
            }
            return status;
        }

        template <class Callback, class View>
        static bool call(Callback Params::*callback, const View *view, void *user_data) noexcept {
            Bridge *bridge = static_cast<Bridge *>(user_data);
            try {
                return (bridge->callbacks.*callback)(*view);
            } catch (...) {
                bridge->thrown = std::current_exception();
                return false;
            }
        }

        static bool on_step(const diffusion_draft *draft, void *user_data) {
            return call(&Params::step, draft, user_data);
        }
        static bool on_canvas(const diffusion_canvas *canvas, void *user_data) {
            return call(&Params::canvas, canvas, user_data);
        }

        Params::Views views;
        diffusion_params params;
        const Params &callbacks;
        std::exception_ptr thrown;
    };

    detail::Handle<diffusion_context> handle_;
};

} // namespace llama_diffusion

#endif
