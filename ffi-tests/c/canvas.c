/* What is known about an answer in advance, and texts that are already there. Argument: the demo model. */
#include "check.h"

static const char question[] = "What is the capital of Norway?";

static void ask(diffusion_context *context, const diffusion_params *params, char **text) {
    CALL(diffusion_generate_text(context, question, strlen(question), params, text, NULL, &error));
}

static void constraints(const diffusion_model *model, diffusion_context *context) {
    diffusion_params params = default_params(model);
    char *text = NULL;
    CHECK(params.json_schema == NULL && params.regex == NULL && params.json_depth == 4);
    params.json_schema = "{\"enum\": [\"Oslo\", \"Bern\"]}";
    ask(context, &params, &text);
    CHECK(strcmp(text, "\"Oslo\"") == 0 || strcmp(text, "\"Bern\"") == 0);
    diffusion_string_free(text);
    params.json_schema = NULL;
    params.regex = "(yes|no)";
    params.constrain_at = DIFFUSION_CONSTRAIN_AT_COMMIT;
    params.thoughts = DIFFUSION_THOUGHTS_OFF;
    ask(context, &params, &text);
    CHECK(strcmp(text, "yes") == 0 || strcmp(text, "no") == 0);
    diffusion_string_free(text);
    text = NULL;
    params.json_schema = "{\"type\": 5}";
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "regex: ");
    params.regex = NULL;
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "json_schema: ");
    CHECK(text == NULL);
    /* A program of an older header ends its struct before the constraint. */
    params.struct_size = offsetof(diffusion_params, json_schema);
    ask(context, &params, &text);
    CHECK(strstr(text, "Oslo") != NULL);
    diffusion_string_free(text);
}

typedef struct known {
    const diffusion_template *template_;
    const diffusion_token_set *set;
    int drafts;
} known;

static bool follows(const diffusion_draft *draft, void *user_data) {
    known *seen = user_data;
    const diffusion_template *template_ = seen->template_;
    size_t position, index;
    if (draft->block > 0)
        return true; /* the template is of the first canvas */
    seen->drafts++;
    for (position = 0; position < template_->length; position++) {
        const int32_t token = draft->argmax[position];
        if (template_->fixed[position] >= 0) {
            CHECK(token == template_->fixed[position]);
            CHECK(draft->canvas[position] == template_->fixed[position]);
            CHECK(draft->entropy[position] == 0.0f && draft->accepted[position]);
        } else if (template_->set_of[position] == 0) {
            for (index = 0; index < seen->set->count && seen->set->tokens[index] != token;)
                index++;
            CHECK(index < seen->set->count);
        }
    }
    return true;
}

static void templates(const diffusion_model *model, diffusion_context *context) {
    static const char start[] = "The capital of Norway is Bern";
    diffusion_params params = default_params(model);
    diffusion_template template_ = {0};
    const diffusion_template *pointers[2];
    diffusion_token_set set;
    int32_t fixed[64], set_of[64], initial[64], cities[2];
    known seen = {0};
    char *text = NULL;
    size_t count = 0, position;
    CALL(diffusion_tokenize(model, start, strlen(start), false, false, fixed, 64, &count, &error));
    for (position = 0; position < count; position++) {
        set_of[position] = -1;
        initial[position] = -1;
    }
    cities[0] = cities[1] = fixed[count - 1];
    fixed[count - 1] = -1;
    set_of[count - 1] = 0;
    initial[count - 1] = cities[0];
    set.tokens = cities;
    set.count = 2;
    template_.struct_size = sizeof template_;
    template_.length = count;
    template_.fixed = fixed;
    template_.set_of = set_of;
    template_.initial = initial;
    template_.sets = &set;
    template_.set_count = 1;
    seen.template_ = &template_;
    seen.set = &set;
    pointers[0] = &template_;
    pointers[1] = NULL;
    params.templates = pointers;
    params.template_count = 1;
    params.on_step = follows;
    params.user_data = &seen;
    ask(context, &params, &text);
    CHECK(seen.drafts > 0 && strncmp(text, start, strlen(start)) == 0);
    diffusion_string_free(text);
    text = NULL;
    params.template_count = 2;
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "templates: must not be NULL");
    params.template_count = 1;
    set_of[0] = 0;
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "set_of: position 0 is fixed");
    set_of[0] = -1;
    set.count = 0;
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "the set is empty");
    template_.struct_size = sizeof template_ + 1;
    FAILS(diffusion_generate_text(context, question, strlen(question), &params, &text, NULL, &error),
          DIFFUSION_STATUS_STRUCT_SIZE, "diffusion_template.struct_size");
}

static void finished_texts(const diffusion_model *model, diffusion_context *context) {
    static const char wrong[] = "The capital of Norway is Bern.<turn|>", line[] = "The cat is red.\n";
    static const char instruction[] = "Change red to blue";
    const token_list prompt = norway(model);
    const diffusion_lines all = {1, 1};
    diffusion_params params = default_params(model);
    diffusion_result result;
    token_list text, checked;
    char answer[128], *edited = NULL;
    size_t size = 0;
    CALL(diffusion_tokenize(model, wrong, strlen(wrong), false, true, text.items, CAPACITY,
                            &text.count, &error));
    params.min_logprob = -1.0f;
    result.struct_size = sizeof result;
    CALL(diffusion_check(context, prompt.items, prompt.count, text.items, text.count, &params,
                         checked.items, CAPACITY, &checked.count, &result, &error));
    CHECK(result.blocks == 1 && result.tokens == checked.count);
    CALL(diffusion_detokenize(model, checked.items, checked.count, false, answer, sizeof answer,
                              &size, &error));
    CHECK(strcmp(answer, "The capital of Norway is Oslo.") == 0);
    FAILS(diffusion_check(context, prompt.items, prompt.count, text.items, text.count, &params, NULL,
                          0, &checked.count, NULL, &error),
          DIFFUSION_STATUS_BUFFER_TOO_SMALL, "32 are needed");
    CALL(diffusion_edit_text(context, line, strlen(line), instruction, strlen(instruction), 0.5f,
                             &all, 1, NULL, &edited, &result, &error));
    CHECK(strncmp(edited, "The cat is red.", 15) == 0 && edited[strlen(edited) - 1] == '\n');
    diffusion_string_free(edited);
    edited = NULL;
    FAILS(diffusion_edit_text(context, line, strlen(line), instruction, strlen(instruction), -1.0f,
                              NULL, 0, NULL, &edited, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "strength: ");
    CHECK(edited == NULL);
}

static void forms(const diffusion_model *model, diffusion_context *context) {
    static const char form[] =
        "{\"form\": \"The capital of Norway is \xe2\x96\xa2.\", \"samples\": 2, \"blanks\": [{\"name\": "
        "\"city\", \"choices\": [\"Bern\", \"Oslo\", \"Mexico City\"]}]}";
    static const char *bad[] = {
        "",
        "{\"form\": 1}",
        "{\"form\": \"x\"}",
        "{\"form\": \"\xe2\x96\xa2\", \"unknown\": 1}",
        "{\"form\": \"\xe2\x96\xa2\", \"samples\": 0}",
    };
    const token_list prompt = norway(model);
    char *answer = NULL;
    size_t index;
    CALL(diffusion_fill(context, prompt.items, prompt.count, form, strlen(form),
                        DIFFUSION_THOUGHTS_OFF, &answer, &error));
    CHECK(strstr(answer, "\"text\":\"The capital of Norway is Oslo.\"") != NULL);
    CHECK(strstr(answer, "\"choice\":1") != NULL && strstr(answer, "\"allowed_mass\":") != NULL);
    diffusion_string_free(answer);
    answer = NULL;
    for (index = 0; index < sizeof bad / sizeof *bad; index++)
        FAILS(diffusion_fill(context, prompt.items, prompt.count, bad[index], strlen(bad[index]),
                             DIFFUSION_THOUGHTS_OFF, &answer, &error),
              DIFFUSION_STATUS_INVALID_ARGUMENT, "form: ");
    FAILS(diffusion_fill(context, prompt.items, prompt.count, form, strlen(form),
                         DIFFUSION_THOUGHTS_ON, &answer, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "form: ");
    FAILS(diffusion_fill(context, NULL, 0, form, strlen(form), DIFFUSION_THOUGHTS_OFF, &answer, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "prompt: ");
    CHECK(answer == NULL);
}

static bool stop_at_once(const diffusion_draft *draft, void *user_data) {
    CHECK(draft->length > 0);
    ++*(int *)user_data;
    return false;
}

static void gaps(const diffusion_model *model, diffusion_context *context) {
    static const char request[] =
        "{\"input_prefix\": \"Mia has a \", \"input_suffix\": \" hat.\", \"infill_tokens\": 1, "
        "\"seed\": 3}";
    static const char several[] =
        "{\"input_prefix\": \"Mia has a \", \"infill_tokens\": 2, \"n_cmpl\": 2}";
    static const char *bad[] = {
        "",
        "{\"input_suffix\": 3}",
        "{\"n_cmpl\": 0}",
        "{\"infill_tokens\": 9, \"n_predict\": 8}",
    };
    static const char *names[] = {"request: ", "input_suffix: ", "n_cmpl: ", "infill_tokens: "};
    diffusion_params params;
    char *answer = NULL;
    size_t index;
    int drafts = 0;
    CALL(diffusion_params_init(model, &params, sizeof params, &error));
    CALL(diffusion_infill(context, request, strlen(request), NULL, &answer, &error));
    CHECK(answer[0] == '{' && strstr(answer, "\"content\":\"") != NULL);
    CHECK(strstr(answer, "\"stop\":\"complete\"") != NULL && strstr(answer, "\"seed\":3") != NULL);
    diffusion_string_free(answer);
    CALL(diffusion_infill(context, several, strlen(several), &params, &answer, &error));
    CHECK(answer[0] == '[' && strstr(answer, "\"seed\":1") != NULL);
    diffusion_string_free(answer);
    answer = NULL;
    for (index = 0; index < sizeof bad / sizeof *bad; index++)
        FAILS(diffusion_infill(context, bad[index], strlen(bad[index]), NULL, &answer, &error),
              DIFFUSION_STATUS_INVALID_ARGUMENT, names[index]);
    params.on_step = stop_at_once;
    params.user_data = &drafts;
    FAILS(diffusion_infill(context, several, strlen(several), &params, &answer, &error),
          DIFFUSION_STATUS_CANCELLED, "0 of 2 answers complete");
    CHECK(drafts == 1);
    FAILS(diffusion_infill(context, request, strlen(request), NULL, NULL, &error),
          DIFFUSION_STATUS_INVALID_ARGUMENT, "answer: ");
    CHECK(answer == NULL);
}

int main(int argc, char **argv) {
    diffusion_model *model;
    diffusion_context *context;
    CHECK(argc == 2);
    model = load_model(argv[1]);
    context = new_context(model);
    constraints(model, context);
    templates(model, context);
    finished_texts(model, context);
    forms(model, context);
    gaps(model, context);
    diffusion_context_free(context);
    diffusion_model_free(model);
    return 0;
}
