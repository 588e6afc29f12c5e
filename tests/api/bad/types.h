/* The types that the wrong descriptions beside this speak of. */
typedef enum result_enum { OK = 0 } result;
typedef struct ctx_st *context;
typedef struct thing_st {
        int a;
        void *b;
} thing;
