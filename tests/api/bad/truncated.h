typedef struct thing_st {
        int a;
